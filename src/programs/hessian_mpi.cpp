// The program: a run from the command line to the exit code.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <numeric>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/lines.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/engines/rows_of_samples.hpp"
#include "hessian_mpi/file/checkpoint.hpp"
#include "hessian_mpi/file/file_checks.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/file/sums.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "hessian_mpi/network/libtorch_version.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/ranks/one_folder.hpp"
#include "hessian_mpi/ranks/resources.hpp"
#include "hessian_mpi/run/assemble.hpp"
#include "hessian_mpi/run/device_of_rank.hpp"
#include "hessian_mpi/run/estimate.hpp"
#include "hessian_mpi/run/job.hpp"
#include "hessian_mpi/run/load_problem.hpp"
#include "hessian_mpi/run/options.hpp"
#include "hessian_mpi/run/provenance.hpp"
#include "hessian_mpi/run/report.hpp"
#include "hessian_mpi/run/resume.hpp"
#include "hessian_mpi/run/verdict.hpp"
#include "hessian_mpi/run/version_details.hpp"
#include "hessian_mpi/system/node.hpp"
#include "hessian_mpi/system/stop.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::programs {
namespace {

void warn(const ranks::Communicator& world, const std::string& message) {
  cli::warn("hessian_mpi", message, world);
}

network::LossAndGradient loss_and_gradient(const network::Problem& problem) {
  auto result = network::evaluate(problem);
  const auto wrong =
      std::find_if(result.gradient.begin(), result.gradient.end(), [](double g) { return !std::isfinite(g); });
  if (wrong != result.gradient.end()) {
    throw InputError(text("the gradient is not finite at ", problem.index().describe(wrong - result.gradient.begin()),
                          ": there is no Hessian at this point"));
  }
  return result;
}

// Collective. Throws on all ranks where the matrix holds NaN or infinity.
void refuse_nonfinite_rows(const run::Assembled& own, const run::Job& job, const ranks::Communicator& world) {
  const auto joined = world.join({own.nonfinite_rows.begin(), own.nonfinite_rows.end()});
  if (joined.empty()) return;
  throw ranks::AgreedError(
      ExitCode::failed, text(has_rows_of_samples(job.options.matrix) ? "the matrix" : "H", " has NaN or infinity in ",
                             cli::text_of_rows({joined.begin(), joined.end()}, job.problem.index(), job.matrix)));
}

double norm(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

// Collective. Whether --resume has a file to go on with; else it begins one.
bool finds_file_to_resume(const run::Options& options, const ranks::Communicator& world) {
  return options.resume && world.max(std::int64_t{world.is_root() && std::filesystem::exists(options.output)}) != 0;
}

// Collective. The file says how many threads to go on with, unless the user does.
run::Options with_threads_of_file(run::Options options, const ranks::Communicator& world) {
  int threads = 0;
  world.on_root([&] { threads = run::threads_of_file(options.output).value_or(0); });
  threads = static_cast<int>(world.max(std::int64_t{threads}));
  if (!options.threads && threads > 0) options.threads = threads;
  return options;
}

// The point at which H is taken, and what LibTorch is kept from doing so that its second derivatives are right.
struct Examined {
  network::LossAndGradient point;
  std::vector<std::string> cures;
};

// Collective. The proof that there is an H: all that can be wrong with the input is found here.
Examined examine(const network::Problem& problem, const ranks::Communicator& world) {
  return world.together([&] {
    std::vector<std::string> cures;
    if (!has_rows_of_samples(problem.matrix())) cures = network::probe_second_derivatives(problem);
    for (const auto& note : problem.notes()) warn(world, note);
    for (const auto& cure : cures) warn(world, cure);
    auto point = loss_and_gradient(problem);
    if (problem.matrix() == Matrix::gradients) engines::expect_losses_of_samples(problem, point.loss);
    return Examined{std::move(point), std::move(cures)};
  });
}

// On root. What an earlier run has left. With --verify all, what is damaged beside the rows is put back first where
// this job makes it again as it was.
run::Resumed find_in_file(const run::Job& job, const file::HessianLayout& layout) {
  const auto& path = job.options.output;
  file::Restored restored;
  if (job.options.verify == Verify::all) restored = file::restore_damaged(path, layout);
  auto found = run::resume_from(path, layout);
  file::retake_space(path);
  if (!restored.back.empty()) {
    found.warnings.push_back(
        text("'", path.string(), "' was damaged: put back as it was: ", joined(restored.back, ", ")));
  }
  if (!restored.left.empty()) {
    found.warnings.push_back(text(
        "'", path.string(), "' is damaged, and this job does not make again as it was: ", joined(restored.left, ", ")));
    if (found.complete) file::reopen_hessian_file(path);  // its end is written again
    found.complete = false;
  }
  return found;
}

// On root.
struct OpenedFile {
  run::Resumed found;
  std::unique_ptr<file::NewHessianFile> unfinished;  // where it is to take the place of another one later
};

// Collective. Makes the file with all but its rows, or finds what an earlier run has left in it.
OpenedFile open_file(const run::Job& job, bool resuming, const Examined& examined, int threads,
                     const ranks::Communicator& world) {
  OpenedFile opened;
  world.on_root([&] {
    const run::MethodOfRows method{run::name_of_method(job), run::lines_of_methods(job), run::accumulation(job),
                                   joined(examined.cures, "\n")};
    const auto attributes =
        run::initial_attributes(job.options, job.problem, method, examined.point.loss, world.size(), threads);
    const auto theta = job.problem.flat_parameters();
    const file::HessianLayout layout{job.problem.index(),     job.matrix, job.problem.precision(), theta,
                                     examined.point.gradient, attributes};
    if (resuming) {
      opened.found = find_in_file(job, layout);
    } else if (job.options.overwrite && std::filesystem::exists(job.options.output)) {
      opened.unfinished = std::make_unique<file::NewHessianFile>(job.options.output, layout, true);
    } else {
      file::create_hessian_file(job.options.output, layout, job.options.overwrite);
    }
  });
  for (const auto& warning : opened.found.warnings) warn(world, warning);
  return opened;
}

// Collective. Reads the blocks of earlier runs and takes back the marks of those that are not what was written.
void distrust_earlier_blocks(const run::Job& job, bool complete, file::Checkpoint& checkpoint,
                             const ranks::Communicator& world) {
  const auto check = file::verify_blocks(job.options.output, job.matrix, checkpoint.records(), {}, Verify::all, world);
  if (check.damaged.empty()) return;
  warn(world, text(check.damaged.size(), " of ", check.checked, " row blocks in '", job.options.output.string(),
                   "' are not what was written, the first with row ",
                   job.matrix.grid.block(check.damaged.front()).begin, ": they are computed again"));
  if (complete) world.on_root([&] { file::reopen_hessian_file(job.options.output); });
  checkpoint.forget(check.damaged);
}

std::string text_of_state(const file::Checkpoint& checkpoint) {
  const auto count = static_cast<std::int64_t>(checkpoint.records().size());
  return text(count - static_cast<std::int64_t>(checkpoint.missing().size()), " of ", count,
              " row blocks are on the disk");
}

std::string text_of_resume(const run::Options& options) {
  return text("go on, on any number of ranks, with: ", cli::command_line_to_resume(options.command_line));
}

// Collective. Runs what leaves a file that can be gone on with where it fails or is to stop, and says what is there.
template <class Action>
void resumably(const run::Job& job, const file::Checkpoint& checkpoint, Action&& action) {
  try {
    std::forward<Action>(action)();
  } catch (const ranks::AgreedError& error) {
    if (!checkpoint.is_published() && !ranks::is_stop(error)) {
      throw ranks::AgreedError(error.code(),
                               text(error.what(), "\n  '", job.options.output.string(), "' is left as it was"));
    }
    const auto state = text_of_state(checkpoint);
    throw ranks::AgreedError(error.code(), ranks::is_stop(error)
                                               ? text(error.what(), ": ", state)
                                               : text(error.what(), "\n  ", state, "; ", text_of_resume(job.options)));
  }
}

cli::Progress progress_of(const run::Job& job, const std::vector<matrix::SharedBlocks>& shares,
                          const ranks::Communicator& world) {
  const auto& grid = job.matrix.grid;
  std::int64_t missing = 0;
  std::int64_t own = 0;
  Work work;
  for (const auto& share : shares) {
    const auto blocks = share.of_rank(world.rank());
    missing += matrix::rows_in(grid, share.blocks);
    own += matrix::rows_in(grid, blocks);
    for (const auto b : blocks) work = work + run::work_of(job, grid.block(b));
  }
  const auto rows = grid.part().count();
  return {world.is_root() ? job.options.progress : ProgressStyle::none,
          rows,
          rows - missing,
          static_cast<std::uint64_t>(job.matrix.bytes()),
          own,
          std::cerr,
          work};
}

void warn_of_little_memory(std::uint64_t lacking, std::uint64_t memory, const ranks::Communicator& world) {
  if (lacking == 0) return;
  warn(world,
       text("--memory is too little to keep all factors of the layers: they are made again for each range of rows, "
            "which takes longer; with ",
            ((memory + lacking) >> 20) + 1, "M they would be made once"));
}

// Collective. What the job takes, for the user of --plan.
void print_plan(const run::Job& job, const run::Memory& memory, int threads, const run::StageSeconds& seconds,
                const ranks::StopPoint& stop, const ranks::Communicator& world) {
  const auto folder = system::folder_of(system::target_of(job.options.output));
  Stopwatch watch;
  const auto engine = run::unfactored_rows_engine(job, world, stop);
  const double making_factors = watch.lap();
  auto figures =
      run::estimate(job.problem, job.plan, job.matrix, run::accumulation(job), memory.factors, *engine, folder, world);
  if (job.jacobian) figures.shared += making_factors * world.size();
  const auto most = system::peak_memory() + memory.most;
  const auto memory_of_rank = static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(most)));
  if (!world.is_root()) return;
  // Checks derive the gradient again, in float64 too, and some rows.
  const double serial = seconds.load + 3 * seconds.gradient + job.options.check_rows * figures.double_backward_row;
  std::vector<std::string> ways;
  for (const auto& line : split_lines(run::lines_of_methods(job))) ways.push_back(printable(line));
  print(std::cout, run::Forecast{figures, serial, memory_of_rank, world.size(), threads,
                                 cli::options_of_job(job.options.command_line, job.options.options_beside_plan), ways,
                                 has_rows_of_samples(job.options.matrix) ? "backward" : "double-backward"});
}

// Collective. Computes and writes the rows that are missing; seconds gets what that took on the slowest rank.
void fill_file(const run::Job& job, run::LayeredAssembly& assembly, const run::Memory& memory,
               file::Checkpoint& checkpoint, const ranks::StopPoint& stop, const ranks::Communicator& world,
               run::StageSeconds& seconds) {
  run::Assembled own;
  resumably(job, checkpoint, [&] {
    Stopwatch preparing;
    assembly.prepare([&] { return checkpoint.file(); }, checkpoint.records(), memory.columns, stop);
    const double prepared = preparing.lap();
    file::HessianWriter writer(checkpoint.file(), job.matrix, world);
    if (assembly.reads_back()) writer.keep_pages();
    auto progress = progress_of(job, assembly.shares(), world);
    const auto work = [&](const Rows& rows) { return run::work_of(job, rows); };
    const auto assemble_blocks = [&](engines::Engine& engine, const matrix::SharedBlocks& blocks) {
      return run::assemble(engine, {job.matrix, blocks, memory.blocks_at_once, work}, writer, checkpoint, stop, world,
                           progress);
    };
    std::optional<ranks::AgreedError> stopped;
    try {
      own = assembly.assemble(assemble_blocks, memory.factors, stop);
    } catch (const ranks::AgreedError& error) {
      if (!ranks::is_stop(error)) throw;
      stopped = error;  // once what was computed is on the disk
    }
    own.compute_seconds += prepared;
    Stopwatch closing;
    checkpoint.take(writer);
    const double saving = closing.lap();
    own.checkpoint_seconds += saving;
    writer.close();
    own.write_seconds += saving + closing.lap();
    if (stopped) throw *stopped;
    progress.finish();
  });
  seconds.rows = world.max(own.compute_seconds);
  seconds.passes = world.max(own.pass_seconds);
  seconds.exchange = world.max(own.exchange_seconds);
  seconds.write = world.max(own.write_seconds);
  seconds.checkpoints = world.max(own.checkpoint_seconds);
  refuse_nonfinite_rows(own, job, world);
}

// Collective. All of that. Returns which blocks each rank has computed, in turn.
std::vector<matrix::SharedBlocks> compute_rows(const run::Job& job, std::uint64_t memory_of_rank,
                                               file::Checkpoint& checkpoint, const ranks::StopPoint& stop,
                                               const ranks::Communicator& world, run::StageSeconds& seconds) {
  try {
    Stopwatch watch;
    const auto engine = run::unfactored_rows_engine(job, world, stop);
    auto assembly = run::assembly_of(job, checkpoint.missing(), *engine, world);
    const auto memory = world.together([&] { return run::memory_for(job, assembly, memory_of_rank); });
    const double making_factors = watch.lap();
    fill_file(job, assembly, memory, checkpoint, stop, world, seconds);
    seconds.rows += making_factors;
    return assembly.shares();
  } catch (const ranks::AgreedError& error) {
    if (ranks::is_stop(error)) checkpoint.publish();  // it is gone on with under its name
    throw;
  }
}

double largest_of(const std::vector<file::BlockRecord>& records) {
  double largest = 0;
  for (const auto& record : records) largest = std::max(largest, record.largest);
  return largest;
}

// Collective. What is known of the file's blocks: of a new one nothing, of one that is gone on with what earlier runs
// have marked, read back first where the user asks for it. Nothing to compute in a file that is complete: no value.
std::optional<file::Checkpoint> begin_or_resume(const run::Job& job, bool resuming, const Examined& examined,
                                                int threads, const ranks::Communicator& world) {
  auto [found, unfinished] = open_file(job, resuming, examined, threads, world);
  std::optional<file::Checkpoint> checkpoint;
  checkpoint.emplace(job.options.output, job.matrix.grid, found.records, world, std::move(unfinished));
  const auto id = world.together([&] { return file::file_id(checkpoint->file()); });
  ranks::expect_same_files({{checkpoint->file(), id}}, world);
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
ExitCode finish_file(const run::Job& job, const file::Checkpoint& checkpoint,
                     const std::vector<matrix::SharedBlocks>& written, const network::LossAndGradient& point,
                     const ranks::StopPoint& stop, const ranks::Communicator& world, run::StageSeconds& seconds,
                     Stopwatch& total) {
  const auto& options = job.options;
  Stopwatch stage;
  checkpoint.expect_same_file();
  const double largest = largest_of(checkpoint.records());
  const auto verdict = run::check_file({options.output, job.matrix, checkpoint.records(), written, largest},
                                       job.problem, options.matrix, point, run::twins_of(options, job.problem.device()),
                                       options.verify, options.check_rows, stop, world);
  for (const auto& warning : verdict.warnings) warn(world, warning);
  seconds.checks = stage.lap();
  seconds.all = total.lap();

  const bool complete = verdict.failures.empty();
  auto resumed = job.matrix.grid.count();
  for (const auto& shared : written) resumed -= static_cast<std::int64_t>(shared.blocks.size());
  const run::FinishingRun finishing{world.size(), options.command_line, resumed, seconds.all};
  checkpoint.expect_same_file();
  resumably(job, checkpoint, [&] {
    world.together([&] {
      if (world.is_root())
        file::finish_hessian_file(options.output, run::final_attributes(verdict.figures, finishing), complete);
    });
  });
  const auto peak = static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(system::peak_memory())));
  if (world.is_root()) {
    print(std::cout, run::Summary{options.output, complete, job.matrix, resumed, point.loss, norm(point.gradient),
                                  largest, verdict.figures, seconds, peak, cli::title_of(name_of(options.matrix))});
  }
  if (complete) return ExitCode::complete;
  throw ranks::AgreedError(ExitCode::failed, text("a check failed: ", joined(verdict.failures, "; "), "; '",
                                                  options.output.string(), "' is kept for a look, with complete = 0"));
}

// Collective. The table of contents of a run. begun: whether it has come so far that there is something to go on with.
ExitCode make_file(const run::Options& given, const ranks::StopPoint& stop, const ranks::Communicator& world,
                   bool& begun) {
  Stopwatch total;
  Stopwatch stage;
  run::StageSeconds seconds;

  world.together([] { network::expect_libtorch_of_build(network::libtorch_version()); });
  const bool resuming = finds_file_to_resume(given, world);
  const run::Options options = resuming ? with_threads_of_file(given, world) : given;
  const auto resources = ranks::resources_of_rank(options.threads, options.memory, world);
  if (!resources.warning.empty()) warn(world, resources.warning);
  const auto device = run::device_of_rank(options.device, world);
  const network::DifferentiableKernels kernels(device, resources.threads);
  system::keep_freed_memory();

  const network::Problem problem = world.together([&] { return run::load_problem(options, options.dtype, device); });
  network::use_fast_convolutions(problem);
  const auto matrix = world.together([&] { return run::matrix_of_job(options, problem); });
  seconds.load = stage.lap();

  if (!resuming && !options.plan) {
    world.on_root(
        [&] { file::check_room_for(options.output, static_cast<std::uint64_t>(matrix.bytes()), options.overwrite); });
  }
  if (!options.plan) ranks::expect_one_folder(options.output, world);
  const auto examined = examine(problem, world);
  stop();
  const run::Job job = world.together([&] { return run::plan_job(options, problem, matrix); });
  const auto expected = world.together([&] {
    const auto single = run::single_rows_engine(job);
    return run::memory_for(job, run::assembly_of(job, run::all_blocks(job), *single, world), resources.memory);
  });
  warn_of_little_memory(static_cast<std::uint64_t>(world.max(static_cast<std::int64_t>(expected.lacking))),
                        resources.memory, world);
  if (world.is_root()) print(std::cout, run::announcement(job, world.size(), resources.threads));
  seconds.gradient = stage.lap();
  if (options.plan) {
    print_plan(job, expected, resources.threads, seconds, stop, world);
    return ExitCode::complete;
  }

  begun = true;
  auto checkpoint = begin_or_resume(job, resuming, examined, resources.threads, world);
  if (!checkpoint) return ExitCode::complete;
  seconds.create = stage.lap();
  const auto written = compute_rows(job, resources.memory, *checkpoint, stop, world, seconds);
  return finish_file(job, *checkpoint, written, examined.point, stop, world, seconds, total);
}

// Collective. A job that is asked to stop says how to go on.
ExitCode run(const run::Options& options, const ranks::StopPoint& stop, const ranks::Communicator& world) {
  run::expect_same_inputs(options, world);
  bool begun = false;
  try {
    return make_file(options, stop, world, begun);
  } catch (const ranks::AgreedError& error) {
    if (!ranks::is_stop(error)) throw;
    const bool old_file = options.overwrite && !begun;
    throw ranks::AgreedError(error.code(),
                             text(error.what(), "; ", old_file ? "begin again" : text_of_resume(options)));
  }
}

int start(int argc, char** argv) {
  system::StopRequest request;
  return cli::run_program(
      {"hessian_mpi", run::print_help, "LibTorch " + network::libtorch_version()}, argc, argv, run::parse_options,
      [&](const run::Options& options, const ranks::Communicator& world) {
        request.set_time_limit(options.time_limit);
        return run(options, {request, world}, world);
      },
      [](const run::Options& options, const ranks::Communicator& world) {
        if (options.verbose) run::print_version_details(std::cout, options.output, world);
      });
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
