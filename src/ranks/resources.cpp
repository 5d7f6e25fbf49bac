#include "hessian_mpi/ranks/resources.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/control_group.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::ranks {
namespace {

// A positive whole number in the environment; nothing where it is something else.
std::optional<long> number_in_environment(const char* name) {
  const char* word = std::getenv(name);
  if (word == nullptr) return std::nullopt;
  char* end = nullptr;
  const long number = std::strtol(word, &end, 10);
  return end != word && number > 0 ? std::optional(number) : std::nullopt;
}

int threads_by_default(const CoresOfRank& has) {
  constexpr long most = 4096;
  if (const auto threads = number_in_environment("OMP_NUM_THREADS")) {
    return static_cast<int>(std::min(*threads, most));
  }
  if (const auto given = number_in_environment("SLURM_CPUS_PER_TASK")) {
    // Slurm counts hyperthreads. A rank that is bound to fewer processors than it was given is told of it.
    const auto threads = static_cast<int>(std::min(*given, most));
    return threads <= has.processors ? std::min(threads, has.cores) : threads;
  }
  return has.cores;
}

std::uint64_t memory_by_default(const Communicator& communicator) {
  constexpr std::uint64_t share_of_free = 4;
  const int ranks = communicator.ranks_on_node();
  auto left = system::available_memory() / static_cast<std::uint64_t>(ranks);
  if (const auto given = memory_by_slurm(ranks)) {
    const auto taken = system::peak_memory();
    left = std::min(left, *given > taken ? *given - taken : 0);
  }
  return left / share_of_free;
}

}  // namespace

std::optional<std::uint64_t> memory_by_slurm(int ranks_on_node) {
  constexpr std::uint64_t mebibyte = 1 << 20;
  const auto ranks = static_cast<std::uint64_t>(ranks_on_node);
  if (const auto of_node = number_in_environment("SLURM_MEM_PER_NODE")) {
    return static_cast<std::uint64_t>(*of_node) * mebibyte / ranks;
  }
  const auto of_cpu = number_in_environment("SLURM_MEM_PER_CPU");
  if (!of_cpu) return std::nullopt;
  if (const auto cpus = number_in_environment("SLURM_CPUS_ON_NODE")) {
    return static_cast<std::uint64_t>(*of_cpu) * static_cast<std::uint64_t>(*cpus) * mebibyte / ranks;
  }
  const auto cpus = number_in_environment("SLURM_CPUS_PER_TASK").value_or(1);
  return static_cast<std::uint64_t>(*of_cpu) * static_cast<std::uint64_t>(cpus) * mebibyte;
}

CoresOfRank cores_of_rank(const Communicator& communicator) {
  const auto processors = system::processors_of_process();
  const auto own = system::cores_of(processors);
  std::map<std::uint64_t, int> ranks_of_core;
  for (const auto core : communicator.join_on_node({own.begin(), own.end()})) ++ranks_of_core[core];
  double cores = 0;
  for (const int core : own) cores += 1.0 / ranks_of_core[static_cast<std::uint64_t>(core)];
  cores = std::min(cores, system::limits_of_control_groups().cores / communicator.ranks_on_node());
  constexpr double rounding = 1e-6;
  const int processors_of_rank = std::max(1, static_cast<int>(processors.size()));
  return {processors_of_rank, std::max(1, static_cast<int>(cores + rounding)),
          processors.size() < system::processors_of_parent().size()};
}

std::string warning_of_threads(int threads, const CoresOfRank& has) {
  const auto cores = [](int number) { return text(number, number == 1 ? " core" : " cores"); };
  if (threads > has.processors) {
    return text(threads, " threads a rank, but ranks are bound to ", cores(has.processors),
                ": start with mpirun --map-by slot:PE=", threads, " --bind-to core (MPICH: -bind-to core:", threads,
                "), or srun --cpus-per-task=", threads);
  }
  if (has.bound && threads < has.cores) {
    return text("each rank has ", cores(has.cores), " and computes on ", threads, ": ", has.cores - threads,
                has.cores - threads == 1 ? " stays idle" : " stay idle", "; take more ranks, or --threads ", has.cores);
  }
  return {};
}

Resources resources_of_rank(std::optional<int> threads, std::optional<std::uint64_t> memory,
                            const Communicator& communicator) {
  Resources resources;
  auto has = cores_of_rank(communicator);
  resources.threads = static_cast<int>(communicator.min(threads.value_or(threads_by_default(has))));
  resources.memory = static_cast<std::uint64_t>(
      communicator.min(static_cast<std::int64_t>(memory.value_or(memory_by_default(communicator)))));
  has.processors = static_cast<int>(communicator.min(has.processors));
  has.cores = static_cast<int>(communicator.min(has.cores));
  has.bound = communicator.min(std::int64_t{has.bound}) != 0;
  resources.warning = warning_of_threads(resources.threads, has);
  return resources;
}

}  // namespace hessian_mpi::ranks
