// The rows of a Hessian, computed and thrown away: seconds of computing alone, without a file, by the way that the
// program takes. Of a job that takes long, from one in so many of them. On one rank also those of one
// rank of many, as if the others were there.
//   mpirun -n 2 --bind-to core compute_benchmark [options of hessian_mpi]
//   mpirun -n 2 --bind-to core compute_benchmark --every 20 [options of hessian_mpi]
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

// Some rows into a buffer that is used again. It is not filled before, as the program's are not.
void compute(engines::Engine& engine, const std::vector<Rows>& rows, const matrix::MatrixShape& matrix) {
  const auto most = std::max<std::int64_t>(1, run::buffer_bytes / matrix.bytes_of_row());
  const auto buffer = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(most * matrix.bytes_of_row()));
  for (const auto& run : rows) {
    for (auto row = run.begin; row < run.end; row += most) {
      const Rows some{row, std::min(run.end, row + most)};
      engine.compute(some, {0, matrix.columns}, matrix.storage, buffer.get(), [](double) {});
    }
  }
}

std::vector<Rows> rows_of(const matrix::BlockList& blocks, const matrix::MatrixShape& matrix) {
  std::vector<Rows> rows;
  for (const auto b : blocks) matrix::append_run(matrix.grid.block(b), rows);
  return rows;
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
    world.together([&] { compute(engine, rows_of(blocks.of_rank(world.rank()), matrix), matrix); });
    return run::Assembled();
  };
  assembly.assemble(compute_share, factor_memory, never);
  const auto own = static_cast<std::int64_t>(watch.lap() * 1e6);
  return {{"seconds", static_cast<double>(world.max(own)) / 1e6}};
}

// What a rank does in each step, if its rows are these (step -> rows of each rank of world). Rows of earlier steps are
// zeros. Reading the layers is what every rank does.
template <class Choice>
nlohmann::json by_steps(const run::Job& job, const ranks::Communicator& world, const Choice& choose) {
  const auto& matrix = job.matrix;
  const auto& plan = job.plan;
  const auto unfactored = run::single_rows_engine(job);
  nlohmann::json steps = nlohmann::json::array();
  std::vector<Rows> earlier;
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const auto chosen = choose(s);
    const auto& own = chosen[static_cast<std::size_t>(world.rank())];
    world.wait_for_all();
    Stopwatch watch;
    double bringing = 0;
    double on_each = 0;
    if (s == 0) {
      compute(*unfactored, own, matrix);
    } else {
      layers::EarlierColumns columns(earlier, chosen, world.rank(), matrix.storage);
      const std::vector<char> zeros(static_cast<std::size_t>(matrix.bytes_of_row()));
      for (const auto& run : earlier) {
        for (auto row = run.begin + world.rank(); row < run.end; row += world.size()) columns.note(row, zeros.data());
      }
      columns.exchange(world);
      bringing = watch.lap();
      layers::LayerFactors factors(job.problem, plan.steps[s], own, columns, *unfactored, run::accumulation(job),
                                   factor_memory);
      on_each = watch.lap();
      compute(factors, own, matrix);
    }
    const double seconds = watch.lap();
    auto rows = layers::rows_of(plan, job.problem.index(), s);
    const auto columns =
        layers::count_of(earlier) * layers::count_of(rows) * static_cast<std::int64_t>(bytes_of(matrix.storage));
    steps.push_back({{"own", seconds}, {"bringing", bringing}, {"on_each", on_each}, {"bytes_of_columns", columns}});
    earlier.insert(earlier.end(), rows.begin(), rows.end());
    std::sort(earlier.begin(), earlier.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  }
  return steps;
}

// One rank of many, in the shares that the program makes.
nlohmann::json one_of_many(const run::Job& job, int rank, int ranks, const ranks::Communicator& world) {
  const auto unfactored = run::single_rows_engine(job);
  const auto assembly = run::assembly_of(job, run::all_blocks(job), *unfactored, world);
  const auto steps = by_steps(job, world, [&](std::size_t s) {
    const auto& blocks = assembly.shares()[s].blocks;
    std::vector<double> costs;
    for (const auto b : blocks) {
      costs.push_back(layers::cost_of(job.plan, job.problem.index(), job.matrix.grid.block(b)));
    }
    return std::vector<std::vector<Rows>>{
        rows_of(matrix::shared_by_cost(blocks, costs, ranks).of_rank(rank), job.matrix)};
  });
  return {{"rank", rank}, {"ranks", ranks}, {"steps", steps}};
}

// For each rank some of a step's rows: of each parameter one in so many groups of neighbours that come of the same
// passes.
std::vector<std::vector<Rows>> sample_of(const run::Job& job, std::size_t step, std::int64_t every, int ranks) {
  std::vector<std::vector<Rows>> rows(static_cast<std::size_t>(ranks));
  std::size_t turn = 0;
  for (std::size_t p = 0; p < job.plan.parameters.size(); ++p) {
    const auto& way = job.plan.parameters[p];
    const auto& entry = job.problem.index().entries()[p];
    if (way.step != step) continue;
    const auto end = entry.offset + entry.size;
    const auto groups = (entry.size + way.rows_together - 1) / way.rows_together;
    for (auto g = std::min(every, groups) / 2; g < groups; g += every) {
      const auto begin = entry.offset + g * way.rows_together;
      matrix::append_run({begin, std::min(end, begin + way.rows_together)}, rows[turn++ % rows.size()]);
    }
  }
  return rows;
}

// All rows, from a sample of them, each rank's by what the plan says that they cost.
nlohmann::json sampled(const run::Job& job, std::int64_t every, const ranks::Communicator& world) {
  const auto cost_of = [&](const std::vector<Rows>& rows) {
    double cost = 0;
    for (const auto& run : rows) cost += layers::cost_of(job.plan, job.problem.index(), run);
    return cost;
  };
  std::int64_t rows = 0;
  std::vector<double> of_all;  // for each step, of a rank's share what it has made of it
  const auto steps = by_steps(job, world, [&](std::size_t s) {
    auto chosen = sample_of(job, s, every, world.size());
    const double all = cost_of(layers::rows_of(job.plan, job.problem.index(), s)) / world.size();
    const double own = cost_of(chosen[static_cast<std::size_t>(world.rank())]);
    of_all.push_back(own > 0 ? all / own : 0);
    for (const auto& some : chosen) rows += layers::count_of(some);
    return chosen;
  });
  double seconds = 0;
  for (std::size_t s = 0; s < of_all.size(); ++s) {
    const double own = steps[s].at("own").get<double>() + steps[s].at("bringing").get<double>();
    seconds += world.max(own * of_all[s] + steps[s].at("on_each").get<double>());
  }
  return {{"seconds", seconds}, {"rows", rows}};
}

}  // namespace

int main(int argc, char** argv) {
  const ranks::MpiSession mpi(argc, argv);
  const auto world = ranks::Communicator::world();
  std::vector<char*> arguments(argv, argv + argc);
  int rank = 0;
  int ranks = 0;
  int every = 1;
  const std::string how = argc > 2 ? argv[1] : "";
  if (how == "--as" || how == "--every") {
    const std::string value = argv[2];
    (how == "--as" ? rank : every) = std::max(0, std::atoi(value.c_str()));
    if (how == "--as") ranks = std::atoi(value.substr(value.find(':') + 1).c_str());
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
  auto line = ranks > 0   ? one_of_many(job, rank, ranks, world)
              : every > 1 ? sampled(job, every, world)
                          : whole(job, world);
  line.update({{"N", problem.index().size()},
               {"loading", loading},
               {"planning", planning},
               {"plan", layers::text_of(job.plan)}});
  if (world.is_root()) std::cout << line << std::endl;
}
