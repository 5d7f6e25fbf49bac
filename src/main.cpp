// The program: a run from the command line to the exit code.

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <numeric>
#include <utility>

#include "hessian_mpi/assemble.hpp"
#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/data.hpp"
#include "hessian_mpi/double_backward.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/example.hpp"
#include "hessian_mpi/hessian_file.hpp"
#include "hessian_mpi/model.hpp"
#include "hessian_mpi/node.hpp"
#include "hessian_mpi/options.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/progress.hpp"
#include "hessian_mpi/provenance.hpp"
#include "hessian_mpi/report.hpp"
#include "hessian_mpi/resources.hpp"
#include "hessian_mpi/verdict.hpp"
#include "hessian_mpi/version.hpp"

namespace hessian_mpi {
namespace {

// Seconds since construction or the last lap.
class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

void warn(const Communicator& world, const std::string& message) {
  if (world.is_root()) std::cerr << "hessian_mpi: warning: " << message << '\n';
}

Problem load_problem(const Options& options, std::optional<Precision> precision) {
  const ProblemSettings settings{options.loss, options.reduction,  options.mode, options.batch_size,
                                 precision,    options.parameters, options.seed};
  if (options.model) return {load_model(*options.model), load_data(*options.data), settings};
  auto example = make_example(options.seed);
  return {std::move(example.model), example.data, settings};
}

LossAndGradient loss_and_gradient(const Problem& problem) {
  auto result = evaluate(problem);
  const auto wrong =
      std::find_if(result.gradient.begin(), result.gradient.end(), [](double g) { return !std::isfinite(g); });
  if (wrong != result.gradient.end()) {
    throw InputError(text("the gradient is not finite at ", problem.index().describe(wrong - result.gradient.begin()),
                          ": there is no Hessian at this point"));
  }
  return result;
}

// Collective. Throws on all ranks where the matrix holds NaN or infinity.
void refuse_nonfinite_rows(const Assembled& own, const ParameterIndex& index, const Communicator& world) {
  const auto joined = world.join({own.nonfinite_rows.begin(), own.nonfinite_rows.end()});
  if (joined.empty()) return;
  throw AgreedError(ExitCode::failed,
                    text("H has NaN or infinity in ", text_of_rows({joined.begin(), joined.end()}, index)));
}

double norm(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

// What is differentiated, and the matrix that comes of it.
struct Job {
  const Options& options;
  const Problem& problem;
  std::int64_t rows;
  Precision storage;
  BlockGrid grid;
  std::uint64_t bytes;
};

Job job_of(const Options& options, const Problem& problem) {
  const auto n = problem.index().size();
  const auto storage = options.storage.value_or(problem.precision());
  const BlockGrid grid(n, n * static_cast<std::int64_t>(bytes_of(storage)));
  return {options, problem, n, storage, grid, matrix_bytes(n, storage)};
}

Announcement announcement(const Job& job, const Engine& engine, int ranks, int threads) {
  const auto& options = job.options;
  const auto& problem = job.problem;
  return {versions().hessian_mpi,
          ranks,
          threads,
          text(options.model ? options.model->string() : "embedded example", " (", problem.model_format(), ")"),
          options.data ? options.data->string() : "embedded example",
          problem.samples(),
          problem.batches(),
          options.loss,
          options.reduction,
          engine.name(),
          static_cast<std::int64_t>(problem.index().entries().size()),
          job.rows,
          problem.precision(),
          job.storage,
          job.bytes,
          options.output};
}

// Collective. The point at which H is taken, and the proof that there is an H: all that can be wrong with the input is
// found here.
LossAndGradient examine(const Job& job, const Communicator& world) {
  world.on_root([&] { check_room_for(job.options.output, job.bytes, job.options.overwrite); });
  return world.together([&] {
    if (probe_second_derivatives(job.problem) == Probe::right_without_onednn) {
      warn(world, "oneDNN is off: one of its kernels for this network has no second derivative");
    }
    return loss_and_gradient(job.problem);
  });
}

// Collective. Makes the file with all but its rows.
void create_file(const Job& job, const Engine& engine, const LossAndGradient& point, int threads,
                 const Communicator& world) {
  world.on_root([&] {
    const auto attributes =
        initial_attributes(job.options, job.problem, engine.name(), point.loss, world.size(), threads);
    const auto theta = job.problem.flat_parameters();
    create_hessian_file(
        job.options.output,
        {job.problem.index(), job.grid, job.problem.precision(), job.storage, theta, point.gradient, attributes},
        job.options.overwrite);
  });
}

// Collective. Computes and writes all rows; seconds gets what that took on the slowest rank.
Assembled fill_file(const Job& job, Engine& engine, std::int64_t blocks_at_once, const Communicator& world,
                    PhaseSeconds& seconds) {
  HessianWriter writer(job.options.output, job.rows, job.storage, world);
  const auto own_rows = rows_of(job.grid, blocks_of_rank(job.grid, world.rank(), world.size())).count();
  Progress progress(world.is_root() ? job.options.progress : ProgressStyle::none, job.rows, job.bytes, own_rows,
                    std::cerr);
  auto own = assemble(engine, job.grid, job.rows, job.storage, blocks_at_once, writer, world, progress);
  Stopwatch closing;
  writer.close();
  progress.finish();
  seconds.rows = world.max(own.compute_seconds);
  seconds.write = world.max(own.write_seconds + closing.lap());
  refuse_nonfinite_rows(own, job.problem.index(), world);
  return own;
}

ExitCode run(const Options& options, const Communicator& world) {
  Stopwatch total;
  Stopwatch phase;
  PhaseSeconds seconds;

  const auto resources = resources_of_rank(options, world);
  if (!resources.warning.empty()) warn(world, resources.warning);
  at::set_num_threads(resources.threads);
  use_differentiable_kernels();
  keep_freed_memory();

  const Problem problem = world.together([&] { return load_problem(options, options.dtype); });
  use_fast_convolutions(problem);
  const Job job = job_of(options, problem);
  seconds.load = phase.lap();

  const auto point = examine(job, world);
  DoubleBackward engine(problem);
  const auto blocks_at_once =
      world.together([&] { return blocks_in_memory(engine, job.grid, job.rows, job.storage, resources.memory); });
  if (world.is_root()) print(std::cout, announcement(job, engine, world.size(), resources.threads));
  seconds.gradient = phase.lap();

  create_file(job, engine, point, resources.threads, world);
  seconds.create = phase.lap();

  const auto own = fill_file(job, engine, blocks_at_once, world, seconds);
  phase.lap();

  const auto checksums = world.join(own.checksums);
  const double largest = world.max(own.largest);
  const auto verdict = check_file(
      {options.output, job.grid, job.rows, job.storage, checksums, largest}, problem,
      [&] { return load_problem(options, Precision::float64); }, options.verify, options.check_rows, world);
  for (const auto& warning : verdict.warnings) warn(world, warning);
  seconds.checks = phase.lap();
  seconds.all = total.lap();

  const bool complete = verdict.failures.empty();
  world.on_root([&] {
    finish_hessian_file(options.output, checksums, final_attributes(verdict.figures, seconds.all), complete);
  });
  const auto peak = static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(peak_memory())));
  if (world.is_root()) {
    print(std::cout, Summary{options.output, complete, job.rows, job.storage, job.bytes, point.loss,
                             norm(point.gradient), largest, verdict.figures, seconds, peak});
  }
  if (!complete) {
    throw AgreedError(ExitCode::failed, text("a check failed: ", verdict.failures.front(), "; '",
                                             options.output.string(), "' is kept for a look, with complete = 0"));
  }
  return ExitCode::complete;
}

void print_version(std::ostream& out) {
  const auto v = versions();
  out << "hessian_mpi " << v.hessian_mpi << "\nLibTorch " << v.libtorch << "\n" << v.mpi << "\nHDF5 " << v.hdf5 << '\n';
}

ExitCode start(int argc, char** argv, const Communicator& world) {
  const auto options = world.together([&] { return parse_options(argc, argv); });
  if (options.help || options.version) {
    if (world.is_root()) options.help ? print_help(std::cout) : print_version(std::cout);
    return ExitCode::complete;
  }
  return run(options, world);
}

}  // namespace
}  // namespace hessian_mpi

int main(int argc, char** argv) {
  using namespace hessian_mpi;
  const MpiSession mpi(argc, argv);
  const auto world = Communicator::world();
  try {
    return static_cast<int>(start(argc, argv, world));
  } catch (const AgreedError& error) {
    if (world.is_root()) std::cerr << "hessian_mpi: error: " << error.what() << std::endl;
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {  // on this rank alone: the others would wait for it
    std::cerr << "hessian_mpi: error: rank " << world.rank() << " on " << world.host() << ": " << error.what()
              << std::endl;
    abort_all_ranks(ExitCode::failed);
  }
}
