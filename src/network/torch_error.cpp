#include "hessian_mpi/network/torch_error.hpp"

#include <new>
#include <string_view>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

class DroppedWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

using Lines = std::vector<std::string_view>;

Lines lines_of(std::string_view message) {
  Lines lines;
  while (!message.empty()) {
    const auto end = message.find('\n');
    lines.push_back(message.substr(0, end));
    message.remove_prefix(end == std::string_view::npos ? message.size() : end + 1);
  }
  return lines;
}

std::string_view trimmed(std::string_view line) {
  const auto begin = line.find_first_not_of(" \t");
  return begin == std::string_view::npos ? std::string_view{}
                                         : line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
}

bool contains(std::string_view line, std::string_view part) {
  return line.find(part) != std::string_view::npos;
}

// The interpreter underlines code that failed: "    ~~~~ <--- HERE"; code over several lines has one such line below
// each.
bool is_underline(std::string_view line) {
  line = trimmed(line);
  if (const auto arrow = line.find(" <--- HERE"); arrow != std::string_view::npos) line = line.substr(0, arrow);
  return !line.empty() && line.find_first_not_of('~') == std::string_view::npos;
}

// The code that failed, of the innermost of the frames: the last lines that are underlined.
std::string failing_code(const Lines& lines) {
  std::size_t last = lines.size();
  while (last > 0 && !is_underline(lines[last - 1])) --last;
  std::string code;
  for (std::size_t i = last; i >= 2 && is_underline(lines[i - 1]); i -= 2) {
    code = std::string(trimmed(lines[i - 2])) + (code.empty() ? "" : " ") + code;
  }
  return code;
}

// Of a traced module, the frames of Python: "net.py(20): forward".
bool is_traced_frame(std::string_view line) {
  const auto end = line.find("): ");
  if (end == std::string_view::npos || line.find(' ', end + 3) != std::string_view::npos) return false;
  const auto begin = line.rfind('(', end);
  return begin != std::string_view::npos && begin + 1 < end &&
         line.substr(begin + 1, end - begin - 1).find_first_not_of("0123456789") == std::string_view::npos;
}

// Where it is: 'File "net.py", line 20, in forward', or of a traced module the innermost frame outside of PyTorch.
std::string failing_place(const Lines& lines) {
  for (const auto line : lines) {
    if (is_traced_frame(line) && !contains(line, "/torch/")) return std::string(trimmed(line));
  }
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (trimmed(*line).starts_with("File \"")) return std::string(trimmed(*line));
  }
  return {};
}

bool is_heading(std::string_view line) {
  return contains(line, "Traceback of TorchScript");
}

// "RuntimeError: sizes differ" -> "sizes differ"; "builtins.ValueError: x" -> "ValueError: x".
std::string without_python_type(std::string_view line) {
  for (const std::string_view prefix : {"RuntimeError: ", "torch.jit.Error: ", "builtins."}) {
    if (line.starts_with(prefix)) line.remove_prefix(prefix.size());
  }
  return std::string(line);
}

// The exception's own message follows the last of the underlined lines, from the first line that is neither indented
// nor one of a trace's frames.
std::string from_traceback(const Lines& lines) {
  std::size_t after = lines.size();
  while (after > 0 && !is_underline(lines[after - 1])) --after;
  const auto is_part_of_trace = [](std::string_view line) {
    return line.empty() || line.front() == ' ' || is_heading(line) || is_traced_frame(line);
  };
  while (after < lines.size() && is_part_of_trace(lines[after])) ++after;
  const std::string reason = after < lines.size() ? without_python_type(lines[after]) : "it raised an exception";
  const std::string code = failing_code(lines);
  const std::string place = failing_place(lines);
  if (code.empty()) return reason;
  return text(reason, "; raised by `", code, "`", place.empty() ? "" : " in ", place);
}

// "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 400
// bytes. Error code 12 (Cannot allocate memory)"
std::string out_of_memory(std::string_view line) {
  constexpr std::string_view before = "you tried to allocate ";
  const auto begin = line.find(before);
  if (begin == std::string_view::npos) return "out of memory";
  const auto amount = line.substr(begin + before.size());
  return text("out of memory: could not allocate ", amount.substr(0, amount.find('.')));
}

// What is of use only to those who develop the library: where in its source it was found, and whom to tell.
std::string without_internals(std::string_view line) {
  constexpr std::string_view report = "please report a bug to PyTorch. ", guess = ". This is an internal miniz error",
                             assertion = " INTERNAL ASSERT FAILED at ";
  if (line.starts_with("[enforce fail at ")) {
    if (const auto end = line.find(". "); end != std::string_view::npos) line = line.substr(end + 2);
  }
  if (const auto begin = line.find(report); begin != std::string_view::npos && begin + report.size() < line.size()) {
    line = line.substr(begin + report.size());
  } else if (contains(line, assertion)) {
    return "LibTorch cannot make sense of it";
  }
  return std::string(line.substr(0, line.find(guess)));
}

std::string from_text(std::string_view message) {
  const Lines lines = lines_of(message);
  for (const auto line : lines) {
    if (is_heading(line)) return from_traceback(lines);
  }
  for (const auto line : lines) {
    if (trimmed(line).empty()) continue;
    if (contains(line, "DefaultCPUAllocator: can't allocate memory")) return out_of_memory(line);
    return without_internals(trimmed(line));
  }
  return "no reason given";
}

}  // namespace

std::string message_of(const std::exception& error) {
  constexpr std::size_t longest = 1000;
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "out of memory";
  if (dynamic_cast<const Error*>(&error) != nullptr) return error.what();
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    return printable(from_text(torch_error->what_without_backtrace()), longest);
  }
  return printable(from_text(error.what()), longest);
}

c10::WarningHandler* dropped_warnings() {
  static DroppedWarnings dropped;
  return &dropped;
}

}  // namespace hessian_mpi::network
