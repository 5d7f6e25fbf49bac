#include "hessian_mpi/cli/command_line.hpp"

#include <vector>

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

// The words of a line as quoted() has made them, with their quotes.
std::vector<std::string> words_of(const std::string& command_line) {
  std::vector<std::string> words(1);
  bool in_quotes = false;
  for (std::size_t k = 0; k < command_line.size(); ++k) {
    const char c = command_line[k];
    if (c == ' ' && !in_quotes) {
      words.emplace_back();
      continue;
    }
    words.back() += c;
    if (c == '\\' && !in_quotes && k + 1 < command_line.size()) {
      words.back() += command_line[++k];
    } else if (c == '\'') {
      in_quotes = !in_quotes;
    }
  }
  return words;
}

}  // namespace

std::string command_line_of(int argc, const char* const* argv) {
  std::string line;
  for (int a = 0; a < argc; ++a) line += (a == 0 ? "" : " ") + quoted(argv[a]);
  return line;
}

std::string command_line_to_resume(const std::string& command_line) {
  std::string result;
  bool resumes = false;
  for (const auto& word : words_of(command_line)) {
    if (word == "--overwrite") continue;
    resumes = resumes || word == "--resume";
    result += (result.empty() ? "" : " ") + word;
  }
  return resumes ? result : result + " --resume";
}

std::string command_line_for_whole(const std::string& command_line_of_part, const std::string& file) {
  std::string kept;
  bool is_value = false;  // of an option that is left out
  for (const auto& word : words_of(command_line_of_part)) {
    const bool left_out = word == "--rows" || word == "--output" || word == "-o";
    const bool with_value =
        word.starts_with("--rows=") || word.starts_with("--output=") || (word.starts_with("-o") && word.size() > 2);
    if (!is_value && !left_out && !with_value) kept += (kept.empty() ? "" : " ") + word;
    is_value = left_out && !is_value;
  }
  return command_line_to_resume(kept + " --output " + quoted(file));
}

std::string options_of_job(const std::string& command_line) {
  std::string result;
  const auto words = words_of(command_line);
  for (auto word = words.begin() + 1; word != words.end(); ++word) {
    if (*word != "--plan") result += " " + *word;
  }
  return result;
}

}  // namespace hessian_mpi::cli
