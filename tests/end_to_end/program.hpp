#pragma once
/// Starts the program as users do, under mpirun, and captures what it says. Shares no code with the program.

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace end_to_end {

using Words = std::vector<std::string>;

/// The words of a, then those of b.
Words operator+(Words a, const Words& b);

struct Finished {
  int exit_code = -1;  ///< -1: ended by a signal, or not within the time limit
  std::string output;  ///< stdout
  std::string errors;  ///< stderr
};

/// A new empty folder, removed with all it holds on destruction.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// A command (found on PATH where it has no slash) that runs beside the test, without a shell, in a folder. Ended with
/// its children on destruction.
class RunningCommand {
 public:
  /// Throws std::runtime_error where it cannot be started.
  RunningCommand(const std::vector<std::string>& command, const std::filesystem::path& folder);
  ~RunningCommand();
  RunningCommand(const RunningCommand&) = delete;
  RunningCommand& operator=(const RunningCommand&) = delete;

  int process() const { return process_; }
  /// Processes that it has started and that run: the ranks of an mpirun, in the order of their ids.
  std::vector<int> children() const;
  bool has_ended();
  std::string errors_so_far() const;
  /// Waits for its end, or ends it when the limit is over.
  Finished wait(std::chrono::seconds limit);

 private:
  Folder captured_;
  int process_ = -1;
  std::optional<int> status_;
};

/// Runs a command to its end, as RunningCommand does.
Finished run_command(const std::vector<std::string>& command, const std::filesystem::path& folder,
                     std::chrono::seconds limit);

/// mpirun and what it needs to start hessian_mpi on some ranks with these arguments. exported: NAME=VALUE, environment
/// of the ranks alone. program: hessian_mpi, or what is built of it.
Words launch(int ranks, const Words& arguments, const Words& exported = {},
             const std::string& program = HESSIAN_MPI_PROGRAM);

/// What mpirun itself says of ranks that left with an error, taken out of stderr.
std::string without_notices_of_mpirun(const std::string& errors);

/// Runs hessian_mpi on some ranks. What mpirun itself says of ranks that left with an error is taken out of stderr.
Finished run_program(int ranks, const Words& arguments, const std::filesystem::path& folder, const Words& exported = {},
                     const std::string& program = HESSIAN_MPI_PROGRAM);

/// Jobs that are too short for a start of the program each: those on as many ranks are run one after the other in one
/// process a rank, by hessian_mpi's unchanged main (jobs.cpp).
class Batch {
 public:
  explicit Batch(std::string program = HESSIAN_MPI_JOBS) : program_(std::move(program)) {}
  /// Each job has a name, and a folder of its own that it is started in.
  void add(const std::string& name, int ranks, const Words& arguments);
  void run();
  const Finished& finished(const std::string& name) const { return jobs_.at(name).finished; }
  std::filesystem::path folder(const std::string& name) const { return folder_ / name; }

 private:
  struct Job {
    int ranks;
    Words arguments;
    Finished finished;
  };
  void run_on(int ranks);
  std::string program_;
  std::map<std::string, Job> jobs_;
  Folder folder_;
};

/// Where end_to_end_models.py has put its files.
std::filesystem::path models();

std::string content_of(const std::filesystem::path& file);
std::vector<std::string> lines_of(const std::string& text);

}  // namespace end_to_end
