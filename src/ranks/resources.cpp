#include "hessian_mpi/ranks/resources.hpp"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::ranks {
namespace {

// A positive whole number in the environment; nothing where it is something else.
std::optional<int> number_in_environment(const char* name) {
  const char* word = std::getenv(name);
  if (word == nullptr) return std::nullopt;
  char* end = nullptr;
  const long number = std::strtol(word, &end, 10);
  constexpr long most = 4096;
  return end != word && number > 0 ? std::optional(static_cast<int>(std::min(number, most))) : std::nullopt;
}

int threads_by_default(const Communicator& communicator) {
  for (const auto* variable : {"OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"}) {
    if (const auto number = number_in_environment(variable)) return *number;
  }
  return std::max(1, std::min(system::cores_of_node() / communicator.ranks_on_node(), system::cores_of_process()));
}

std::uint64_t memory_by_default(const Communicator& communicator) {
  constexpr std::uint64_t share_of_free = 4;
  return system::available_memory() / share_of_free / static_cast<std::uint64_t>(communicator.ranks_on_node());
}

}  // namespace

Resources resources_of_rank(std::optional<int> threads, std::optional<std::uint64_t> memory,
                            const Communicator& communicator) {
  Resources resources;
  resources.threads = static_cast<int>(communicator.min(threads.value_or(threads_by_default(communicator))));
  resources.memory = static_cast<std::uint64_t>(
      communicator.min(static_cast<std::int64_t>(memory.value_or(memory_by_default(communicator)))));
  const auto bound = communicator.min(system::cores_of_process());
  if (resources.threads > bound) {
    resources.warning =
        text(resources.threads, " threads a rank, but ranks are bound to ", bound, bound == 1 ? " core" : " cores",
             ": start with mpirun --map-by slot:PE=", resources.threads,
             " --bind-to core, or srun --cpus-per-task=", resources.threads);
  }
  return resources;
}

}  // namespace hessian_mpi::ranks
