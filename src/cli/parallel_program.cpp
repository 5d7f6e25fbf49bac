#include "hessian_mpi/cli/parallel_program.hpp"

#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <system_error>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/exception_words.hpp"
#include "hessian_mpi/cli/version.hpp"
#include "hessian_mpi/system/file_size_limit.hpp"

namespace hessian_mpi::cli {
namespace {

// What a launcher tells each of its processes: how many it has started, and which of them this is.
struct LaunchVariables {
  const char* count;
  const char* rank;
};
// The nearest launcher first: mpirun inside a step of Slurm decides, not the step.
constexpr std::array launch_variables{LaunchVariables{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                      LaunchVariables{"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
                                      LaunchVariables{"PMI_SIZE", "PMI_RANK"},
                                      // Of the step: a batch script has SLURM_NTASKS as well, and is one process.
                                      LaunchVariables{"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};

std::optional<long> number_in(const char* variable) {
  const char* words = std::getenv(variable);
  if (words == nullptr) return std::nullopt;
  long number = 0;
  const auto [end, error] = std::from_chars(words, words + std::strlen(words), number);
  return error == std::errc() && *end == '\0' ? std::optional(number) : std::nullopt;
}

// In a shell that srun --pty has started for a person, with as many tasks as mpirun is to have later.
bool is_typed_in_a_step() {
  return std::getenv("SLURM_PTY_PORT") != nullptr && number_in("SLURM_TASK_PID") != ::getpid();
}

// How the process was started, as its launcher says.
struct Launch {
  const char* variable = "";
  long count = 1;
  long rank = 0;
};

Launch launch_of_process() {
  for (const auto& [variable, rank] : launch_variables) {
    const auto count = number_in(variable);
    if (!count) continue;
    if (std::strncmp(variable, "SLURM", 5) == 0 && is_typed_in_a_step()) continue;
    return {variable, *count, number_in(rank).value_or(0)};
  }
  return {};
}

std::string text_of_unconnected(const Launch& launch) {
  const auto library = ranks::mpi_library_version();
  return text(launch.count, " processes were started together (", launch.variable,
              "), and MPI connects none of them: each would do the whole job. Start them with srun --mpi=",
              library.starts_with("Open MPI") ? "pmix" : "pmi2",
              " (srun --mpi=list says what there is) or with the mpirun of ", library,
              "; where each is to run alone, unset ", launch.variable);
}

const std::optional<std::filesystem::path>& written_of(const system::UsedFiles& files) {
  return files.output ? files.output : files.edited;
}

// At once: what the launcher prints must not come into the line.
void print_on_stderr(const std::string& line) {
  std::cerr << line + '\n' << std::flush;
}

}  // namespace

void warn(const std::string& program, const std::string& words, const ranks::Communicator& world) {
  if (world.is_root()) print_on_stderr(text(program, ": warning: ", words));
}

int run_parallel_program(const char* name, int argc, char** argv,
                         const std::function<ExitCode(const ranks::Communicator& world)>& body) {
  system::ignore_file_size_signal();
  const auto launch = launch_of_process();  // before MPI, which may set such variables itself
  const ranks::MpiSession mpi(argc, argv);
  const auto world = ranks::Communicator::world();
  if (world.size() == 1 && launch.count > 1) {
    if (launch.rank == 0) print_on_stderr(text(name, ": error: ", text_of_unconnected(launch)));
    return static_cast<int>(ExitCode::bad_input);
  }
  try {
    const auto code = body(world);
    world.on_root(expect_printed);
    return static_cast<int>(code);
  } catch (const ranks::AgreedError& error) {
    const auto* kind = error.code() == ExitCode::stopped ? "" : "error: ";
    if (world.is_root()) print_on_stderr(text(name, ": ", kind, error.what()));
    if (world.can_be_finalised()) return static_cast<int>(error.code());
    if (!world.is_root()) world.wait_for_all();  // until root ends them, which by now has told why
    ranks::abort_all_ranks(error.code());
  } catch (const std::exception& error) {  // on this rank alone: the others would wait for it
    print_on_stderr(text(name, ": error: rank ", world.rank(), " on ", world.host(), ": ", words_of(error)));
    ranks::abort_all_ranks(ExitCode::failed);
  }
}

void expect_files(const system::UsedFiles& files, const ranks::Communicator& world) {
  world.together([&] { system::expect_inputs(files); });
  world.on_root([&] { system::expect_output(files); });
}

std::unique_ptr<system::OutputLock> lock_output(const std::string& name, const system::UsedFiles& files) {
  const auto& written = written_of(files);
  if (!written) return nullptr;
  return std::make_unique<system::OutputLock>(
      *written, name, [=](const std::string& words) { print_on_stderr(text(name, ": ", words)); });
}

ExitCode run_as_owner(const std::string& name, const system::UsedFiles& files, const ranks::Communicator& world,
                      const std::function<ExitCode()>& run) {
  std::unique_ptr<system::OutputLock> lock;
  world.on_root([&] { lock = lock_output(name, files); });
  const auto words = world.from_root(lock ? lock->words() : "");
  try {
    return run();
  } catch (const ranks::AgreedError&) {
    throw;
  } catch (...) {  // on this rank alone, which is going to end the others
    if (!lock && !words.empty()) system::OutputLock::remove(*written_of(files), words);
    throw;
  }
}

void expect_printed() {
  if (!std::cout.flush()) {
    throw RunError(
        "standard output could not be written to (is its disk full?): what was printed is lost, files are not");
  }
}

void print_versions(std::ostream& out, const ProgramText& program) {
  const auto v = versions();
  out << program.name << ' ' << v.hessian_mpi << '\n' << v.mpi << "\nHDF5 " << v.hdf5 << '\n';
  if (!program.libraries.empty()) out << program.libraries << '\n';
}

void say(const ranks::Communicator& world, const std::string& what, const std::string& words) {
  constexpr std::size_t width = 12;
  if (world.is_root()) std::cout << what << std::string(width - what.size(), ' ') << words << std::endl;
}

}  // namespace hessian_mpi::cli
