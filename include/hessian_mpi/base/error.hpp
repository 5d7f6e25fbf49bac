#pragma once
/// The errors of hessian_mpi and the exit codes they end in. Messages are written for the user: what
/// happened, where (file, parameter, option), and what to do about it. No dependencies.

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace hessian_mpi {

/// Exit codes of the program, the same on every rank.
enum class ExitCode : int { complete = 0, failed = 1, bad_input = 2, stopped = 75 };

/// Base of all errors that carry a message for the user.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// The command line or an input file is at fault and nothing was written. Example: `--model net.pt`
/// names a file that does not exist.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(ExitCode::bad_input, message) {}
};

/// Something failed while the job ran. Example: the disk became full.
class RunError : public Error {
 public:
  explicit RunError(const std::string& message) : Error(ExitCode::failed, message) {}
};

/// The arguments as one string: text("row ", 3, " of ", 8).
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// The words with a separator between them: "a, b, c".
inline std::string joined(const std::vector<std::string>& words, const char* separator) {
  std::string result;
  for (std::size_t k = 0; k < words.size(); ++k) result.append(k == 0 ? "" : separator).append(words[k]);
  return result;
}

}  // namespace hessian_mpi
