#include <algorithm>
#include <cctype>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "torchscript_model/check.hpp"

namespace hessian_mpi::network {
namespace {

constexpr std::size_t deepest_expression = 500;
constexpr std::size_t deepest_indentation = 200;

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/// How deep the tree of the expression at hand may become, at most: open brackets, and between two commas of each the
/// operators, any of which may be an argument of the next.
class Depth {
 public:
  void open() {
    ++operators_.back();
    operators_.push_back(0);
  }
  void close() {
    if (operators_.size() > 1) operators_.pop_back();
  }
  void operation() { ++operators_.back(); }
  void comma() { operators_.back() = 0; }
  void end_of_line() {
    if (operators_.size() == 1) operators_.back() = 0;
  }
  std::size_t value() const {
    std::size_t sum = 0;
    for (const std::size_t count : operators_) sum += count;
    return sum;
  }
  bool within_brackets() const { return operators_.size() > 1; }

 private:
  std::vector<std::size_t> operators_{0};
};

// Behind the text that begins at `begin` with a quotation mark.
std::size_t end_of_text(std::string_view source, std::size_t begin) {
  std::size_t at = begin + 1;
  while (at < source.size() && source[at] != source[begin] && source[at] != '\n') at += source[at] == '\\' ? 2 : 1;
  return std::min(at + 1, source.size());
}

std::size_t end_of_word(std::string_view source, std::size_t begin) {
  while (begin < source.size() && is_word(source[begin])) ++begin;
  return begin;
}

void count(Depth& depth, char c) {
  switch (c) {
    case '(':
    case '[':
    case '{':
      return depth.open();
    case ')':
    case ']':
    case '}':
      return depth.close();
    case ',':
      return depth.comma();
    case '\n':
      return depth.end_of_line();
    default:
      if (std::ispunct(static_cast<unsigned char>(c)) != 0) depth.operation();
  }
}

// Continued lines are lines of their own here; a statement over many of them counts in each bracket it is in.
void check_depth(std::string_view source) {
  Depth depth;
  std::size_t at = 0;
  while (at < source.size()) {
    const char c = source[at];
    if (c == '"' || c == '\'') {
      at = end_of_text(source, at);
      continue;
    }
    if (is_word(c)) {
      const std::size_t end = end_of_word(source, at);
      const std::string_view word = source.substr(at, end - at);
      for (const std::string_view operation : {"not", "and", "or", "if", "else", "is", "in"}) {
        if (word == operation) depth.operation();
      }
      at = end;
      continue;
    }
    if (c == '\\') {  // joins the next line to this one
      at += 2;
      depth.operation();
      continue;
    }
    count(depth, c);
    if (depth.value() > deepest_expression) throw InputError("an expression that nests too deeply");
    ++at;
  }
}

void check_indentation(std::string_view source) {
  std::size_t begin = 0;
  while (begin < source.size()) {
    const std::size_t first = std::min(source.find_first_not_of(" \t", begin), source.size());
    if (first - begin > 2 * deepest_indentation) throw InputError("blocks that nest too deeply");
    const std::size_t end = source.find('\n', begin);
    if (end == std::string_view::npos) return;
    begin = end + 1;
  }
}

}  // namespace

void check_source(const std::string& member, std::string_view source) try {
  if (source.find("__setstate__") != std::string_view::npos) {
    throw InputError("a method __setstate__, which would run while the file is read");
  }
  check_depth(source);
  check_indentation(source);
} catch (const InputError& error) {
  throw InputError(text("has code (", printable(member), ") with ", error.what()));
}

}  // namespace hessian_mpi::network
