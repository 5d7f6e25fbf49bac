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

#include "handed_rows.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/later_columns.hpp"
#include "hessian_mpi/layers/layer_factors.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/matrix/runs.hpp"
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

// Some rows into a buffer that is used again. It is not filled before, as the program's are not. Returns the seconds of
// each run of them.
std::vector<double> compute(engines::Engine& engine, const std::vector<Rows>& rows, const matrix::MatrixShape& matrix) {
  const auto most = std::max<std::int64_t>(1, run::buffer_bytes / matrix.bytes_of_row());
  const auto buffer = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(most * matrix.bytes_of_row()));
  std::vector<double> seconds;
  for (const auto& run : rows) {
    const Stopwatch watch;
    for (auto row = run.begin; row < run.end; row += most) {
      const Rows some{row, std::min(run.end, row + most)};
      engine.compute(some, {0, matrix.columns}, matrix.storage, buffer.get(), [](double) {});
    }
    seconds.push_back(watch.seconds());
  }
  return seconds;
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

// Rows that a rank makes for the blocks of others, into a buffer that is used again.
double compute(layers::LayerFactors& engine, const run::HandedRows::Pieces& pieces, const matrix::MatrixShape& matrix) {
  const Stopwatch watch;
  std::vector<char> buffer;
  for (const auto& piece : pieces) {
    buffer.resize(static_cast<std::size_t>(piece.count * matrix.bytes_of_row()));
    engine.compute_of_output(piece.first, piece.count, matrix.storage, buffer.data());
  }
  return watch.seconds();
}

// Of a step the rows of each rank of world, those in their blocks, and what this one makes for the blocks of others.
struct Chosen {
  std::vector<std::vector<Rows>> rows;
  run::HandedRows::Pieces handed = {};
  std::vector<Rows> rows_of_handed = {};
};

// What a rank does in each step, if that is chosen for it (of a step, and of those before it). Rows of earlier steps
// are zeros, and so is what others make for it. Reading the layers is what every rank does.
template <class Choice>
nlohmann::json by_steps(const run::Job& job, const ranks::Communicator& world, const Choice& choose) {
  const auto& matrix = job.matrix;
  const auto& plan = job.plan;
  const auto unfactored = run::unfactored_rows_engine(job, world, [] {});
  nlohmann::json steps = nlohmann::json::array();
  std::vector<Rows> earlier;
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const Chosen chosen = choose(s, earlier);
    const auto& own = chosen.rows[static_cast<std::size_t>(world.rank())];
    double for_others = 0;
    world.wait_for_all();
    Stopwatch watch;
    double bringing = 0;
    double on_each = 0;
    std::vector<double> runs;
    if (s == 0) {
      runs = compute(*unfactored, own, matrix);
    } else {
      layers::EarlierColumns columns(earlier, chosen.rows, world.rank(), matrix.storage);
      constexpr std::int64_t at_once = 64;
      const std::vector<char> zeros(static_cast<std::size_t>(at_once * matrix.bytes_of_row()));
      for (const auto& run : earlier) {
        const auto share = matrix::share(run.count(), world.rank(), world.size());
        for (auto row = run.begin + share.begin; row < run.begin + share.end; row += at_once) {
          const Rows some{row, std::min(run.begin + share.end, row + at_once)};
          columns.note(some, zeros.data(), matrix.columns);
        }
      }
      columns.exchange(world);
      bringing = watch.lap();
      std::unique_ptr<engines::Engine> made;
      if (const auto& products = plan.steps[s].products) {
        made = std::make_unique<layers::LaterColumns>(*unfactored, products->begin, columns);
      } else {
        auto expected = chosen.rows_of_handed;
        expected.insert(expected.end(), own.begin(), own.end());
        auto factors = std::make_unique<layers::LayerFactors>(job.problem, plan.steps[s], expected, columns,
                                                              *unfactored, run::accumulation(job), factor_memory);
        on_each = watch.lap();
        for_others = compute(*factors, chosen.handed, matrix);
        made = std::move(factors);
      }
      on_each += watch.lap() - for_others;
      runs = compute(*made, own, matrix);
    }
    const double seconds = watch.lap() + for_others;
    auto rows = layers::rows_of(plan, job.problem.index(), s);
    const auto columns =
        matrix::count_of(earlier) * matrix::count_of(rows) * static_cast<std::int64_t>(bytes_of(matrix.storage));
    steps.push_back({{"own", seconds},
                     {"runs", runs},
                     {"bringing", bringing},
                     {"on_each", on_each},
                     {"bytes_of_columns", columns}});
    earlier.insert(earlier.end(), rows.begin(), rows.end());
    std::sort(earlier.begin(), earlier.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  }
  return steps;
}

// One rank of many, in the shares that the program makes.
nlohmann::json one_of_many(const run::Job& job, int rank, int ranks, const ranks::Communicator& world) {
  const auto unfactored = run::single_rows_engine(job);
  const auto assembly = run::assembly_of(job, run::all_blocks(job), *unfactored, world);
  const auto steps = by_steps(job, world, [&](std::size_t s, const std::vector<Rows>& earlier) -> Chosen {
    const auto& blocks = assembly.shares()[s].blocks;
    std::vector<double> costs;
    for (const auto b : blocks) {
      costs.push_back(layers::cost_of(job.plan, job.problem.index(), job.matrix.grid.block(b)));
    }
    const auto shares = matrix::shared_by_cost(blocks, costs, ranks);
    const auto own = rows_of(shares.of_rank(rank), job.matrix);
    if (ranks == 1 || s == 0 || job.matrix.entries != Entries::all) return {{own}};
    std::vector<std::vector<Rows>> wanted;
    for (int r = 0; r < ranks; ++r) wanted.push_back(rows_of(shares.of_rank(r), job.matrix));
    const run::HandedRows handed(job.plan, job.problem.index(), s, wanted, earlier, job.matrix);
    return {{matrix::without(own, handed.to_rank(rank))}, handed.pieces_of(rank), handed.made_by(rank)};
  });
  return {{"rank", rank}, {"ranks", ranks}, {"steps", steps}};
}

// For each rank some of a step's rows: of each parameter, evenly spread, one in so many groups of neighbours that come
// of the same passes, a run each, and a few at least.
std::vector<std::vector<Rows>> sample_of(const run::Job& job, std::size_t step, std::int64_t every, int ranks) {
  std::vector<std::vector<Rows>> rows(static_cast<std::size_t>(ranks));
  for (std::size_t p = 0; p < job.plan.parameters.size(); ++p) {
    const auto& way = job.plan.parameters[p];
    const auto& entry = job.problem.index().entries()[p];
    if (way.step != step) continue;
    const auto groups = (entry.size + way.rows_together - 1) / way.rows_together;
    const auto count = std::min(groups, std::max<std::int64_t>(3 * ranks, groups / every));
    for (std::int64_t k = 0; k < count; ++k) {
      const auto begin = entry.offset + (2 * k + 1) * groups / (2 * count) * way.rows_together;
      rows[static_cast<std::size_t>(k % ranks)].push_back(
          {begin, std::min(entry.offset + entry.size, begin + way.rows_together)});
    }
  }
  return rows;
}

// What all of a rank's rows of a step take: of each parameter its first group, which may need passes that serve the
// others too, and the others as many times as there are more of them. rows: in the step, on one rank of so many.
double extrapolated(const std::vector<Rows>& runs, const nlohmann::json& seconds, const run::Job& job, int ranks) {
  double sum = 0;
  for (std::size_t k = 0; k < runs.size();) {
    const auto p = job.problem.index().locate(runs[k].begin).parameter;
    const auto first = runs[k].count();
    sum += seconds[k].get<double>();
    double others = 0;
    std::int64_t made = 0;
    for (++k; k < runs.size() && job.problem.index().locate(runs[k].begin).parameter == p; ++k) {
      others += seconds[k].get<double>();
      made += runs[k].count();
    }
    const double share = static_cast<double>(job.problem.index().entries()[p].size) / ranks;
    if (made > 0) sum += others / static_cast<double>(made) * std::max(0.0, share - static_cast<double>(first));
  }
  return sum;
}

// All rows, from a sample of them, as if each rank had its part of every parameter.
nlohmann::json sampled(const run::Job& job, std::int64_t every, const ranks::Communicator& world) {
  std::vector<std::vector<std::vector<Rows>>> chosen;  // step, rank
  const auto steps = by_steps(job, world, [&](std::size_t s, const std::vector<Rows>& /*earlier*/) -> Chosen {
    chosen.push_back(sample_of(job, s, every, world.size()));
    return {chosen.back()};
  });
  double seconds = 0;
  std::int64_t rows = 0;
  for (std::size_t s = 0; s < chosen.size(); ++s) {
    const auto& own = chosen[s][static_cast<std::size_t>(world.rank())];
    std::int64_t made = 0;
    for (const auto& some : chosen[s]) made += matrix::count_of(some);
    if (made == 0) continue;
    const auto all = static_cast<double>(matrix::count_of(layers::rows_of(job.plan, job.problem.index(), s)));
    seconds += extrapolated(own, steps[s].at("runs"), job, world.size()) + steps[s].at("on_each").get<double>() +
               steps[s].at("bringing").get<double>() * all / static_cast<double>(made);
    rows += made;
  }
  return {{"seconds", world.sum(std::vector{seconds}).front() / world.size()}, {"rows", rows}};
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
  auto line = ranks > 0                    ? one_of_many(job, rank, ranks, world)
              : every > 1 && !job.jacobian ? sampled(job, every, world)
                                           : whole(job, world);
  line.update({{"N", problem.index().size()},
               {"loading", loading},
               {"planning", planning},
               {"plan", layers::text_of(job.plan)}});
  if (world.is_root()) std::cout << line << std::endl;
}
