#pragma once
/// Starts the program as users do, under mpirun, and captures what it says. Shares no code with the program.

#include <chrono>
#include <filesystem>
#include <string>
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

/// Runs a command (found on PATH where it has no slash) without a shell, in the folder.
/// Throws std::runtime_error where it cannot be started.
Finished run_command(const std::vector<std::string>& command, const std::filesystem::path& folder,
                     std::chrono::seconds limit);

/// Runs hessian_mpi on some ranks. What mpirun itself says of ranks that left with an error is taken out of stderr.
Finished run_program(int ranks, const std::vector<std::string>& arguments, const std::filesystem::path& folder);

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

/// Where end_to_end_models.py has put its files.
std::filesystem::path models();

std::string content_of(const std::filesystem::path& file);
std::vector<std::string> lines_of(const std::string& text);

}  // namespace end_to_end
