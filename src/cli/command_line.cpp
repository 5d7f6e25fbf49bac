#include "hessian_mpi/cli/command_line.hpp"

#include <algorithm>
#include <vector>

#include "hessian_mpi/base/error.hpp"

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
std::vector<std::string> words_in(const std::string& command_line) {
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

// Leaves out options that have a value, with it. options: with two hyphens, or one letter with one.
std::vector<std::string> words_without(const std::vector<std::string>& options, const std::vector<std::string>& words) {
  std::vector<std::string> kept;
  bool is_value = false;  // of an option that is left out
  for (const auto& word : words) {
    const bool left_out = std::find(options.begin(), options.end(), word) != options.end();
    const bool with_value = std::any_of(options.begin(), options.end(), [&](const std::string& option) {
      return option.starts_with("--") ? word.starts_with(option + "=") : word.size() > 2 && word.starts_with(option);
    });
    if (!is_value && !left_out && !with_value) kept.push_back(word);
    is_value = left_out && !is_value;
  }
  return kept;
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
  for (const auto& word : words_in(command_line)) {
    if (word == "--overwrite") continue;
    resumes = resumes || word == "--resume";
    result += (result.empty() ? "" : " ") + word;
  }
  return resumes ? result : result + " --resume";
}

std::string command_line_for_whole(const std::string& command_line_of_part, const std::string& file) {
  const auto kept = joined(words_without({"--rows", "--output", "-o"}, words_in(command_line_of_part)), " ");
  return command_line_to_resume(kept + " --output " + quoted(file));
}

std::string options_of_job(const std::string& command_line, const std::optional<std::string>& of_config) {
  auto words = words_in(command_line);
  words.erase(words.begin());
  std::erase(words, "--plan");
  if (of_config) words = words_without({"--config"}, words);
  if (of_config && !of_config->empty()) words.push_back(*of_config);
  return (words.empty() ? "" : " ") + joined(words, " ");
}

}  // namespace hessian_mpi::cli
