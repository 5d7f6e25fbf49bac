#include "hessian_mpi/cli/command_line.hpp"

#include <sstream>

namespace hessian_mpi::cli {
namespace {

std::string quoted(const std::string& argument) {
  const bool plain = !argument.empty() && argument.find_first_not_of(
                                              "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                              "0123456789_-+=./:,@%") == std::string::npos;
  if (plain) return argument;
  std::string result = "'";
  for (const char c : argument) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

}  // namespace

std::string command_line_of(int argc, const char* const* argv) {
  std::string line;
  for (int a = 0; a < argc; ++a) line += (a == 0 ? "" : " ") + quoted(argv[a]);
  return line;
}

std::string command_line_to_resume(const std::string& command_line) {
  std::istringstream in(command_line);
  std::string result;
  bool resumes = false;
  for (std::string word; std::getline(in, word, ' ');) {
    if (word == "--overwrite") continue;
    resumes = resumes || word == "--resume";
    result += (result.empty() ? "" : " ") + word;
  }
  return resumes ? result : result + " --resume";
}

std::string options_of_job(const std::string& command_line) {
  std::istringstream in(command_line);
  std::string result;
  std::string program;
  std::getline(in, program, ' ');
  for (std::string word; std::getline(in, word, ' ');) {
    if (word != "--plan") result += " " + word;
  }
  return result;
}

}  // namespace hessian_mpi::cli
