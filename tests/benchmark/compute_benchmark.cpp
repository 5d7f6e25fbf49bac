// The rows of a Hessian, computed and thrown away: seconds of computing alone, without a file, by the way that the
// program takes. On one rank also those of one rank of many, as if the others were there.
//   mpirun -n 2 --bind-to core compute_benchmark [options of hessian_mpi]
//   compute_benchmark --as 3:64 [options of hessian_mpi]
// Prints a line of JSON.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/layer_factors.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/assemble.hpp"
#include "hessian_mpi/run/assemble_by_layer.hpp"
#include "hessian_mpi/run/device_of_rank.hpp"
#include "hessian_mpi/run/job.hpp"
#include "hessian_mpi/run/load_problem.hpp"
#include "hessian_mpi/run/options.hpp"
#include "hessian_mpi/system/node.hpp"

namespace {

using namespace hessian_mpi;

constexpr std::uint64_t factor_memory = std::uint64_t{4} << 30;
constexpr auto memory_of_columns = std::numeric_limits<std::uint64_t>::max();  // there is no file to read them from

// The rows of some blocks into a buffer that is used again. It is not filled before, as the program's are not.
void compute(engines::Engine& engine, const matrix::BlockList& blocks, const matrix::MatrixShape& matrix) {
  const auto block = matrix.grid.rows_per_block() * matrix.bytes_of_row();
  const auto most = std::max<std::int64_t>(1, run::buffer_bytes / block);
  const auto buffer = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(most * block));
  for (std::size_t place = 0; place < blocks.size();) {
    const auto some = matrix::neighbours_from(blocks, place, most);
    const auto rows = rows_of(matrix.grid, some);
    engine.compute(rows, {0, matrix.columns}, matrix.storage, buffer.get(), [](double) {});
    place += static_cast<std::size_t>(some.count());
  }
}

// All rows, by all ranks.
nlohmann::json whole(const run::Job& job, const ranks::Communicator& world) {
  const auto& matrix = job.matrix;
  const system::StopRequest nobody;
  const ranks::StopPoint never(nobody, world);
  world.wait_for_all();  // who has loaded first would wait in the first exchange
  Stopwatch watch;
  const auto unfactored = run::unfactored_rows_engine(job, world, never);
  auto assembly = run::assembly_of(job, run::all_blocks(job), *unfactored, world);
  assembly.prepare({}, std::vector<file::BlockRecord>(static_cast<std::size_t>(matrix.grid.count())), memory_of_columns,
                   never);
  const auto compute_share = [&](engines::Engine& engine, const matrix::SharedBlocks& blocks) {
    world.together([&] { compute(engine, blocks.of_rank(world.rank()), matrix); });
    return run::Assembled();
  };
  assembly.assemble(compute_share, factor_memory, never);
  const auto own = static_cast<std::int64_t>(watch.lap() * 1e6);
  return {{"seconds", static_cast<double>(world.max(own)) / 1e6}};
}

// What one rank of many does in each step. Its columns are zeros. Reading the layers is what every rank does.
nlohmann::json one_of_many(const run::Job& job, int rank, int ranks, const ranks::Communicator& world) {
  const auto& problem = job.problem;
  const auto& matrix = job.matrix;
  const auto& plan = job.plan;
  const auto unfactored = run::single_rows_engine(job);
  const auto assembly = run::assembly_of(job, run::all_blocks(job), *unfactored, world);
  nlohmann::json steps = nlohmann::json::array();
  std::vector<Rows> earlier;
  for (std::size_t s = 0; s < assembly.shares().size(); ++s) {
    const auto& blocks = assembly.shares()[s].blocks;
    std::vector<double> costs;
    for (const auto b : blocks) costs.push_back(layers::cost_of(plan, problem.index(), matrix.grid.block(b)));
    const auto share = matrix::shared_by_cost(blocks, costs, ranks).of_rank(rank);
    std::vector<Rows> own;
    for (const auto b : share) matrix::append_run(matrix.grid.block(b), own);
    Stopwatch watch;
    double on_each = 0;
    if (s == 0) {
      compute(*unfactored, share, matrix);
    } else {
      layers::EarlierColumns columns(earlier, {own}, 0, matrix.storage);
      const std::vector<char> zeros(static_cast<std::size_t>(matrix.bytes_of_row()));
      for (const auto& run : earlier) {
        for (auto row = run.begin; row < run.end; ++row) columns.note(row, zeros.data());
      }
      columns.exchange(world);
      watch.lap();
      layers::LayerFactors factors(problem, plan.steps[s], own, columns, *unfactored, run::accumulation(job),
                                   factor_memory);
      on_each = watch.lap();
      compute(factors, share, matrix);
    }
    const double seconds = watch.lap();
    auto rows = rows_of(plan, problem.index(), s);
    const auto columns =
        layers::count_of(earlier) * layers::count_of(rows) * static_cast<std::int64_t>(bytes_of(matrix.storage));
    steps.push_back({{"own", seconds}, {"on_each", on_each}, {"bytes_of_columns", columns}});
    earlier.insert(earlier.end(), rows.begin(), rows.end());
    std::sort(earlier.begin(), earlier.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  }
  return {{"rank", rank}, {"ranks", ranks}, {"steps", steps}};
}

}  // namespace

int main(int argc, char** argv) {
  const ranks::MpiSession mpi(argc, argv);
  const auto world = ranks::Communicator::world();
  std::vector<char*> arguments(argv, argv + argc);
  int rank = 0;
  int ranks = 0;
  if (argc > 2 && std::string(argv[1]) == "--as") {
    const std::string as = argv[2];
    rank = std::atoi(as.c_str());
    ranks = std::atoi(as.substr(as.find(':') + 1).c_str());
    arguments.erase(arguments.begin() + 1, arguments.begin() + 3);
  }
  const auto options = run::parse_options(static_cast<int>(arguments.size()), arguments.data());
  system::keep_freed_memory();
  Stopwatch watch;
  const auto device = run::device_of_rank(options.device, world);
  const network::DifferentiableKernels kernels(device, 1);
  const network::Problem problem = run::load_problem(options, options.dtype, device);
  network::use_fast_convolutions(problem);
  network::probe_second_derivatives(problem);
  const double loading = watch.lap();
  const run::Job job = run::plan_job(options, problem, run::matrix_of_job(options, problem));
  const double planning = watch.lap();
  auto line = ranks == 0 ? whole(job, world) : one_of_many(job, rank, ranks, world);
  line.update({{"N", problem.index().size()},
               {"loading", loading},
               {"planning", planning},
               {"plan", layers::text_of(job.plan)}});
  if (world.is_root()) std::cout << line << std::endl;
}
