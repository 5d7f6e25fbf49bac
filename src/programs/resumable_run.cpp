#include "resumable_run.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/same_job.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/stop_point.hpp"
#include "hessian_mpi/run/provenance.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

// Since the process began, but for the start of MPI.
const Stopwatch since_start;

// Called by all ranks between pieces of work: throws where another piece might not end in time.
class Pace {
 public:
  Pace(const ranks::StopPoint& stop, const ranks::Communicator& world) : stop_(stop), world_(world) {}

  void operator()() {
    constexpr double forgetting = 0.8;  // a piece may have been the loading of something
    const double piece = std::exchange(begun_, true) ? watch_.lap() : (watch_.lap(), 0);
    longest_ = std::max(piece, forgetting * longest_);
    ranks::StopPoint::heed(world_.max(stop_.reason(longest_)));
  }

 private:
  const ranks::StopPoint& stop_;
  const ranks::Communicator& world_;
  Stopwatch watch_;
  bool begun_ = false;
  double longest_ = 0;
};

std::filesystem::path file_of_products(const MatrixOptions& options) {
  auto path = system::target_of(options.output);
  return path += ".products";
}

// What the file of products says before anything is computed.
enum class State { nothing, begun, done };

// What has changed behind the names of files since an output was made.
std::vector<std::string> changed_since(const hdf5::File& output, const MatrixOptions& options,
                                       const ResumableWork& work) {
  const auto now = run::attributes_of_inputs(*options.network);
  file::Attributes then;
  for (const auto& [name, value] : now)
    then.emplace_back(name, output.text_attribute("/hessian", name).value_or(std::string()));
  auto changes = file::different_inputs(then, now, {"then", "now"});
  if (work.vectors.empty()) return changes;
  const auto shape = output.shape(work.dataset);
  std::vector<double> vectors(output.needed_bytes(work.dataset).value_or(0) / sizeof(double));
  output.read(work.dataset, hdf5::Type::float64, vectors.data());
  if (after::read_vectors(work.vectors, static_cast<std::int64_t>(shape.back())).numbers != vectors)
    changes.push_back(text("the vectors in '", work.vectors, "'"));
  return changes;
}

// Whether the output is what this command has made. Throws InputError where it would make another one now.
bool is_made(const MatrixOptions& options, const ResumableWork& work) {
  if (!std::filesystem::exists(options.output)) return false;
  const auto file = hdf5::File::open_untrusted(options.output);
  const auto line = file.text_attribute("/", "command_line").value_or("");
  if (cli::command_line_to_resume(line) != cli::command_line_to_resume(options.command_line)) return false;
  if (file.text_attribute("/", "checks").value_or("passed") != "passed") return false;  // products have none
  const auto changes = changed_since(file, options, work);
  if (changes.empty()) return true;
  throw InputError(text("'", options.output.string(), "' was made by this command of other inputs: ",
                        joined(changes, "; "), ". Give another --output, or --overwrite in the place of --resume"));
}

// On root. Throws InputError where an earlier run is in the way.
State state_of(const MatrixOptions& options, const ResumableWork& work) {
  const auto kept = file_of_products(options);
  const bool begun = std::filesystem::exists(kept);
  if (options.overwrite) {
    file::check_room_for(options.output, 0, /*replace=*/true);
    std::filesystem::remove(kept);
    return State::nothing;
  }
  if (begun && !options.resume) {
    throw InputError(text("'", kept.string(),
                          "' has the products of a run that was ended: go on with it by --resume, or begin again with "
                          "--overwrite"));
  }
  if (begun && products::KeptProducts::replaces_output(kept)) return State::begun;
  if (options.resume && is_made(options, work)) {
    std::filesystem::remove(kept);
    return State::done;
  }
  file::check_room_for(options.output, 0, /*replace=*/false);
  return begun ? State::begun : State::nothing;
}

std::string text_of_products(std::int64_t count) {
  return cli::plural(count, "product");
}

std::string text_of_kept(const products::KeptProducts& kept) {
  return text(text_of_products(kept.count()), " with ", kept.count() == 1 ? "a vector is" : "vectors are", " in '",
              kept.path().string(), "'");
}

// Collective. The products of earlier runs and of this one.
std::unique_ptr<products::KeptProducts> keep_products(const OpenedMatrix& opened, const MatrixOptions& options,
                                                      const ranks::Communicator& world) {
  auto kept = std::make_unique<products::KeptProducts>(file_of_products(options), opened.hessian, opened.network->own(),
                                                       options.overwrite, world);
  cli::say(world, kept->earlier() > 0 ? "resumed" : "kept",
           kept->earlier() > 0 ? text_of_kept(*kept)
                               : text("products in '", kept->path().string(), "' until all is done, ",
                                      text_of_bytes(kept->bytes_of_one()), " each"));
  return kept;
}

// Collective. What runs on a network and was ended says how to go on.
ExitCode run_kept(const MatrixOptions& options, OpenedMatrix& opened, const ranks::Communicator& world,
                  const std::function<ExitCode()>& work) {
  try {
    return work();
  } catch (const ranks::AgreedError& error) {
    const bool any = opened.kept && opened.kept->count() > 0;
    if (opened.kept && !any) world.on_root([&] { std::filesystem::remove(opened.kept->path()); });
    if (!ranks::is_stop(error) && (!any || error.code() != ExitCode::failed)) throw;
    if (any) opened.kept->bring_to_disk();
    const auto state = any ? text_of_kept(*opened.kept) : "it had made no product";
    const auto line =
        any || !options.overwrite ? cli::command_line_to_resume(options.command_line) : options.command_line;
    throw ranks::AgreedError(error.code(), text(error.what(), ranks::is_stop(error) ? ": " : "\n  ", state,
                                                "; go on, on any number of ranks, with: ", line));
  }
}

// Throws AgreedError where what was written is not right.
void expect_passed(ExitCode code, const MatrixOptions& options) {
  if (code == ExitCode::failed)
    throw ranks::AgreedError(code, text("'", options.output.string(), "' is wrong: a check above has failed"));
}

}  // namespace

void describe_resuming(po::options_description& to) {
  to.add_options()("resume", po::bool_switch(),
                   "of a network: go on with the products that a run of the same job has kept, or begin where there "
                   "are none")("time-limit", po::value<std::string>()->value_name("TIME"),
                               "of a network: stop, resumable, before this much wall time: 3600, 30:00, 2-12:00:00");
}

void take_resuming(const po::variables_map& given, MatrixOptions& options) {
  options.resume = given["resume"].as<bool>();
  if (given.count("time-limit") != 0) options.time_limit = run::parse_time(given["time-limit"].as<std::string>());
  const char* option = options.resume ? "--resume" : options.time_limit ? "--time-limit" : nullptr;
  if (!options.network && option != nullptr)
    throw InputError(text(option, " is of a network in the place of a file: give --model and --data, and no file"));
  if (options.resume && options.overwrite) {
    throw InputError("--resume goes on with what is kept, --overwrite throws it away: give one of them");
  }
}

ExitCode run_resumably(const char* program, const MatrixOptions& options, const ranks::Communicator& world,
                       const ResumableWork& work) {
  if (!options.network) {
    expect_room_for_result(options, world);
    const auto code = work.run(work.open({}));
    expect_passed(code, options);
    return code;
  }
  system::StopRequest request;
  if (options.time_limit) request.set_time_limit(*options.time_limit - since_start.seconds());
  const ranks::StopPoint stop(request, world);
  Pace pace(stop, world);
  std::int64_t state = 0;
  if (!options.plan) world.on_root([&] { state = static_cast<std::int64_t>(state_of(options, work)); });
  state = world.max(state);
  if (state == static_cast<std::int64_t>(State::done)) {
    cli::say(world, "complete", options.output.string() + " is there already: nothing to do");
    return ExitCode::complete;
  }
  OpenedMatrix opened;
  return run_kept(options, opened, world, [&] {
    opened = work.open([&] { pace(); });
    if (options.plan) return work.run(opened);
    opened.kept = keep_products(opened, options, world);
    std::int64_t replaces = 0;
    world.on_root([&] { replaces = std::int64_t{products::KeptProducts::replaces_output(opened.kept->path())}; });
    opened.replace = world.max(replaces) != 0;
    const auto code = work.run(opened);
    const auto& kept = *opened.kept;
    if (kept.earlier() > 0) cli::say(world, "products", text(kept.made(), " made, beside those of earlier runs"));
    if (const auto& failure = kept.failure()) cli::warn(program, text("not all products were kept: ", *failure), world);
    opened.kept->remove();
    opened.kept.reset();
    expect_passed(code, options);
    return code;
  });
}

}  // namespace hessian_mpi::programs
