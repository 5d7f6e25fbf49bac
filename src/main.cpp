// The program: a run from the command line to the exit code.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <sstream>
#include <utility>

#include "hessian_mpi/assemble.hpp"
#include "hessian_mpi/checkpoint.hpp"
#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/device.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/estimate.hpp"
#include "hessian_mpi/file_checks.hpp"
#include "hessian_mpi/hessian_file.hpp"
#include "hessian_mpi/hessian_rows.hpp"
#include "hessian_mpi/job.hpp"
#include "hessian_mpi/load_problem.hpp"
#include "hessian_mpi/node.hpp"
#include "hessian_mpi/options.hpp"
#include "hessian_mpi/parallel_program.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/printable.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/progress.hpp"
#include "hessian_mpi/provenance.hpp"
#include "hessian_mpi/report.hpp"
#include "hessian_mpi/resources.hpp"
#include "hessian_mpi/resume.hpp"
#include "hessian_mpi/stop.hpp"
#include "hessian_mpi/stopwatch.hpp"
#include "hessian_mpi/verdict.hpp"

namespace hessian_mpi {
namespace {

void warn(const Communicator& world, const std::string& message) {
  if (world.is_root()) std::cerr << "hessian_mpi: warning: " << message << '\n';
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

// Collective. Whether --resume has a file to go on with; else it begins one.
bool finds_file_to_resume(const Options& options, const Communicator& world) {
  return options.resume && world.max(std::int64_t{world.is_root() && std::filesystem::exists(options.output)}) != 0;
}

// Collective. The file says how many threads to go on with, unless the user does.
Options with_threads_of_file(Options options, const Communicator& world) {
  int threads = 0;
  world.on_root([&] { threads = threads_of_file(options.output).value_or(0); });
  threads = static_cast<int>(world.max(std::int64_t{threads}));
  if (!options.threads && threads > 0) options.threads = threads;
  return options;
}

// The point at which H is taken, and what LibTorch is kept from doing so that its second derivatives are right.
struct Examined {
  LossAndGradient point;
  std::vector<std::string> cures;
};

// Collective. The proof that there is an H: all that can be wrong with the input is found here.
Examined examine(const Job& job, bool resuming, const Communicator& world) {
  world.on_root([&] {
    const auto bytes = static_cast<std::uint64_t>(job.matrix.bytes());
    if (!resuming && !job.options.plan) check_room_for(job.options.output, bytes, job.options.overwrite);
  });
  return world.together([&] {
    auto cures = probe_second_derivatives(job.problem);
    for (const auto& cure : cures) warn(world, cure);
    return Examined{loss_and_gradient(job.problem), std::move(cures)};
  });
}

// Collective. Makes the file with all but its rows, or finds what an earlier run has left in it; on root.
Resumed open_file(const Job& job, bool resuming, const Examined& examined, int threads, const Communicator& world) {
  Resumed found;
  world.on_root([&] {
    const MethodOfRows method{name_of_method(job), lines_of_methods(job), accumulation(job),
                              joined(examined.cures, "\n")};
    const auto attributes =
        initial_attributes(job.options, job.problem, method, examined.point.loss, world.size(), threads);
    const auto theta = job.problem.flat_parameters();
    const HessianLayout layout{job.problem.index(),     job.matrix, job.problem.precision(), theta,
                               examined.point.gradient, attributes};
    if (resuming) {
      found = resume_from(job.options.output, layout);
      retake_space(job.options.output);
    } else {
      create_hessian_file(job.options.output, layout, job.options.overwrite);
    }
  });
  for (const auto& warning : found.warnings) warn(world, warning);
  return found;
}

// Collective. Reads the blocks of earlier runs and takes back the marks of those that are not what was written.
void distrust_earlier_blocks(const Job& job, bool complete, Checkpoint& checkpoint, const Communicator& world) {
  const auto check = verify_blocks(job.options.output, job.matrix, checkpoint.records(), {}, Verify::all, world);
  if (check.damaged.empty()) return;
  warn(world, text(check.damaged.size(), " of ", check.checked, " blocks in '", job.options.output.string(),
                   "' are not what was written, the first with row ",
                   job.matrix.grid.block(check.damaged.front()).begin, ": they are computed again"));
  if (complete) world.on_root([&] { reopen_hessian_file(job.options.output); });
  checkpoint.forget(check.damaged);
}

std::string text_of_state(const Checkpoint& checkpoint) {
  const auto count = static_cast<std::int64_t>(checkpoint.records().size());
  return text(count - static_cast<std::int64_t>(checkpoint.missing().size()), " of ", count, " blocks are on the disk");
}

std::string text_of_resume(const Job& job) {
  return text("go on, on any number of ranks, with: ", command_line_to_resume(job.options.command_line));
}

// Collective. Leaves where any rank is asked to stop.
void leave_if_asked(const Job& job, const StopRequest& stop, const Communicator& world) {
  const auto reason = static_cast<int>(world.max(std::int64_t{stop.reason()}));
  if (reason == 0) return;
  throw AgreedError(ExitCode::stopped, text("stopped by ", text_of_stop(reason), "; ", text_of_resume(job)));
}

// Collective. Runs a step whose failure leaves a file that can be gone on with, and says so.
template <class Step>
void resumably(const Job& job, const Checkpoint& checkpoint, Step&& step) {
  try {
    std::forward<Step>(step)();
  } catch (const AgreedError& error) {
    if (error.code() == ExitCode::stopped) throw;
    throw AgreedError(error.code(), text(error.what(), "\n  ", text_of_state(checkpoint), "; ", text_of_resume(job)),
                      error.afterwards());
  }
}

Progress progress_of(const Job& job, const std::vector<SharedBlocks>& phases, const Communicator& world) {
  const auto& grid = job.matrix.grid;
  std::int64_t missing = 0;
  std::int64_t own = 0;
  for (const auto& phase : phases) {
    missing += rows_in(grid, phase.blocks);
    own += rows_in(grid, phase.of_rank(world.rank()));
  }
  const auto rows = grid.part().count();
  return {world.is_root() ? job.options.progress : ProgressStyle::none,
          rows,
          rows - missing,
          static_cast<std::uint64_t>(job.matrix.bytes()),
          own,
          std::cerr};
}

void warn_of_little_memory(std::uint64_t lacking, std::uint64_t memory, const Communicator& world) {
  if (lacking == 0) return;
  warn(world,
       text("--memory is too little to keep all factors of the layers: they are made again for each range of rows, "
            "which takes longer; with ",
            ((memory + lacking) >> 20) + 1, "M they would be made once"));
}

// Collective. What the job takes, for the user of --plan.
void print_plan(const Job& job, const Memory& memory, int threads, const PhaseSeconds& seconds, const StopRequest& stop,
                const Communicator& world) {
  const auto folder = job.options.output.has_parent_path() ? job.options.output.parent_path() : ".";
  Stopwatch watch;
  const auto engine = row_engine(job, world, [&] { leave_if_asked(job, stop, world); });
  const double making_factors = watch.lap();
  auto figures = estimate(job.problem, job.plan, job.matrix, accumulation(job), memory.factors, *engine, folder, world);
  if (job.outputs > 0) figures.shared += making_factors * world.size();
  const auto most = peak_memory() + memory.most;
  const auto memory_of_rank = static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(most)));
  if (!world.is_root()) return;
  // Checks derive the gradient again, in float64 too, and some rows.
  const double serial = seconds.load + 3 * seconds.gradient + job.options.check_rows * figures.plain_row;
  std::vector<std::string> ways;
  std::istringstream lines(lines_of_methods(job));
  for (std::string line; std::getline(lines, line);) ways.push_back(printable(line));
  print(std::cout, Forecast{figures, serial, memory_of_rank, world.size(), threads,
                            options_of_job(job.options.command_line), ways});
}

// Collective. Computes and writes the rows that are missing; seconds gets what that took on the slowest rank.
void fill_file(const Job& job, LayeredAssembly& assembly, const Memory& memory, Checkpoint& checkpoint,
               const StopRequest& stop, const Communicator& world, PhaseSeconds& seconds) {
  Assembled own;
  resumably(job, checkpoint, [&] {
    Stopwatch preparing;
    own.stopped = assembly.prepare(job.options.output, checkpoint.records(), stop);
    own.compute_seconds = preparing.lap();
    if (own.stopped != 0) return;
    HessianWriter writer(job.options.output, job.matrix, world);
    auto progress = progress_of(job, assembly.phases(), world);
    try {
      const auto prepared = own.compute_seconds;
      const auto assemble_blocks = [&](Engine& engine, const SharedBlocks& blocks) {
        return assemble(engine, {job.matrix, blocks, memory.blocks_at_once}, writer, checkpoint, stop, world, progress);
      };
      own = assembly.assemble(assemble_blocks, memory.factors, stop);
      own.compute_seconds += prepared;
      Stopwatch closing;
      checkpoint.take(writer);
      const double saving = closing.lap();
      own.checkpoint_seconds += saving;
      writer.close();
      own.write_seconds += saving + closing.lap();
    } catch (const AgreedError& error) {
      if (!writer.is_open()) throw;
      throw AgreedError(error.code(), error.what(), AgreedError::Afterwards::abort);
    }
    if (own.stopped == 0) progress.finish();
  });
  if (own.stopped != 0) {
    throw AgreedError(ExitCode::stopped, text("stopped by ", text_of_stop(own.stopped), ": ", text_of_state(checkpoint),
                                              "; ", text_of_resume(job)));
  }
  seconds.rows = world.max(own.compute_seconds);
  seconds.write = world.max(own.write_seconds);
  seconds.checkpoints = world.max(own.checkpoint_seconds);
  refuse_nonfinite_rows(own, job.problem.index(), world);
}

double largest_of(const std::vector<BlockRecord>& records) {
  double largest = 0;
  for (const auto& record : records) largest = std::max(largest, record.largest);
  return largest;
}

// Collective. What is known of the file's blocks: of a new one nothing, of one that is gone on with what earlier runs
// have marked, read back first where the user asks for it. Nothing to compute in a file that is complete: no value.
std::optional<Checkpoint> begin_or_resume(const Job& job, bool resuming, const Examined& examined, int threads,
                                          const Communicator& world) {
  const auto found = open_file(job, resuming, examined, threads, world);
  std::optional<Checkpoint> checkpoint;
  checkpoint.emplace(job.options.output, job.matrix.grid, found.records, world);
  if (!resuming) return checkpoint;
  const bool complete = world.max(std::int64_t{found.complete}) != 0;
  if (job.options.verify == Verify::all) distrust_earlier_blocks(job, complete, *checkpoint, world);
  const bool done = complete && checkpoint->missing().empty();
  if (world.is_root()) {
    std::cout << (done ? text(job.options.output.string(), " is complete already: nothing to do")
                       : text("going on with it: ", text_of_state(*checkpoint)))
              << std::endl;
  }
  if (done) checkpoint.reset();
  return checkpoint;
}

// Collective. Checks the written file, and says in it and on the screen what came of it. written: blocks of this run.
ExitCode finish_file(const Job& job, const Checkpoint& checkpoint, const std::vector<SharedBlocks>& written,
                     const LossAndGradient& point, const StopRequest& stop, const Communicator& world,
                     PhaseSeconds& seconds, Stopwatch& total) {
  const auto& options = job.options;
  Stopwatch phase;
  const double largest = largest_of(checkpoint.records());
  const auto verdict = check_file(
      {options.output, job.matrix, checkpoint.records(), written, largest}, job.problem, options.matrix, point,
      [&] { return load_problem(options, Precision::float64, job.problem.device()); }, options.verify,
      options.check_rows, [&] { leave_if_asked(job, stop, world); }, world);
  for (const auto& warning : verdict.warnings) warn(world, warning);
  seconds.checks = phase.lap();
  seconds.all = total.lap();

  const bool complete = verdict.failures.empty();
  auto resumed = job.matrix.grid.count();
  for (const auto& shared : written) resumed -= static_cast<std::int64_t>(shared.blocks.size());
  const FinishingRun finishing{world.size(), options.command_line, resumed, seconds.all};
  resumably(job, checkpoint, [&] {
    world.together([&] {
      if (world.is_root()) finish_hessian_file(options.output, final_attributes(verdict.figures, finishing), complete);
    });
  });
  const auto peak = static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(peak_memory())));
  if (world.is_root()) {
    print(std::cout, Summary{options.output, complete, job.matrix, resumed, point.loss, norm(point.gradient), largest,
                             verdict.figures, seconds, peak});
  }
  if (complete) return ExitCode::complete;
  throw AgreedError(ExitCode::failed, text("a check failed: ", joined(verdict.failures, "; "), "; '",
                                           options.output.string(), "' is kept for a look, with complete = 0"));
}

ExitCode run(const Options& given, StopRequest& stop, const Communicator& world) {
  Stopwatch total;
  Stopwatch phase;
  PhaseSeconds seconds;

  stop.set_time_limit(given.time_limit);
  const bool resuming = finds_file_to_resume(given, world);
  const Options options = resuming ? with_threads_of_file(given, world) : given;
  const auto resources = resources_of_rank(options.threads, options.memory, world);
  if (!resources.warning.empty()) warn(world, resources.warning);
  at::set_num_threads(resources.threads);
  const auto device = device_of_rank(options.device, world);
  world.together([&] { use_device(device); });
  use_differentiable_kernels();
  keep_freed_memory();

  const Problem problem = world.together([&] { return load_problem(options, options.dtype, device); });
  use_fast_convolutions(problem);
  Job job = world.together([&] { return job_of(options, problem); });
  seconds.load = phase.lap();

  const auto examined = examine(job, resuming, world);
  leave_if_asked(job, stop, world);
  world.together([&] { plan_rows(job); });
  const auto expected = world.together([&] {
    const auto row_by_row = row_by_row_engine(job);
    return memory_for(job, assembly_of(job, all_blocks(job), *row_by_row, world), resources.memory);
  });
  warn_of_little_memory(static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(expected.lacking))),
                        resources.memory, world);
  if (world.is_root()) print(std::cout, announcement(job, world.size(), resources.threads));
  seconds.gradient = phase.lap();
  if (options.plan) {
    print_plan(job, expected, resources.threads, seconds, stop, world);
    return ExitCode::complete;
  }

  auto checkpoint = begin_or_resume(job, resuming, examined, resources.threads, world);
  if (!checkpoint) return ExitCode::complete;
  seconds.create = phase.lap();

  const auto engine = row_engine(job, world, [&] { leave_if_asked(job, stop, world); });
  auto assembly = assembly_of(job, checkpoint->missing(), *engine, world);
  const auto memory = world.together([&] { return memory_for(job, assembly, resources.memory); });
  const double making_factors = phase.lap();
  fill_file(job, assembly, memory, *checkpoint, stop, world, seconds);
  seconds.rows += making_factors;
  return finish_file(job, *checkpoint, assembly.phases(), examined.point, stop, world, seconds, total);
}

}  // namespace
}  // namespace hessian_mpi

int main(int argc, char** argv) {
  hessian_mpi::StopRequest stop;
  return hessian_mpi::run_program(
      {"hessian_mpi", hessian_mpi::print_help, "LibTorch " + hessian_mpi::libtorch_version()}, argc, argv,
      hessian_mpi::parse_options, [&](const hessian_mpi::Options& options, const hessian_mpi::Communicator& world) {
        return hessian_mpi::run(options, stop, world);
      });
}
