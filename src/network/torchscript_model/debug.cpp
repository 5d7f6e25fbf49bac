#include <torch/csrc/jit/serialization/pickle.h>

#include <algorithm>
#include <string>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "torchscript_model/check.hpp"

namespace hessian_mpi::network {
namespace {

using c10::IValue;

[[noreturn]] void no_table_of_lines() {
  throw InputError("it is no table of lines");
}

std::vector<IValue> elements_of(const IValue& tuple, std::size_t at_least) {
  if (!tuple.isTuple() || tuple.toTupleRef().elements().size() < at_least) no_table_of_lines();
  return tuple.toTupleRef().elements().vec();
}

std::int64_t integer(const IValue& value) {
  if (!value.isInt()) no_table_of_lines();
  return value.toInt();
}

/// The texts that lines are put together from; empty for files of old versions, where every source has its text itself.
std::vector<std::string> texts_of(const IValue& table) {
  std::vector<std::string> texts;
  for (const IValue& text_of_line : elements_of(table, 0)) {
    if (!text_of_line.isString()) no_table_of_lines();
    texts.push_back(text_of_line.toStringRef());
  }
  return texts;
}

const std::string& text_at(const std::vector<std::string>& texts, std::int64_t index) {
  if (index < 0 || static_cast<std::size_t>(index) >= texts.size()) no_table_of_lines();
  return texts[static_cast<std::size_t>(index)];
}

// (texts or text, name of the file, first line)
std::int64_t size_of_source(const IValue& source, const std::vector<std::string>& texts) {
  const auto parts = elements_of(source, 3);
  if (parts.size() != 3) no_table_of_lines();
  integer(parts[2]);
  if (texts.empty()) {
    if (!parts[0].isString() || !(parts[1].isNone() || parts[1].isString())) no_table_of_lines();
    return static_cast<std::int64_t>(parts[0].toStringRef().size());
  }
  if (!parts[0].isIntList()) no_table_of_lines();
  text_at(texts, integer(parts[1]));
  std::int64_t size = 0;
  for (const std::int64_t index : parts[0].toIntVector()) {
    size += static_cast<std::int64_t>(text_at(texts, index).size());
  }
  return size;
}

// (place in the code, (source, begin, end), ...)
void check_row(const IValue& row, const std::vector<std::string>& texts) {
  const auto parts = elements_of(row, 2);
  integer(parts[0]);
  const auto range = elements_of(parts[1], 3);
  if (range.size() != 3) no_table_of_lines();
  const std::int64_t begin = integer(range[1]), end = integer(range[2]);
  // What was made from no text is written as its first character.
  if (begin < 0 || begin > end || end > std::max<std::int64_t>(1, size_of_source(range[0], texts))) no_table_of_lines();
}

}  // namespace

void check_source_lines(const std::string& member, std::string_view pickle) try {
  const IValue whole = torch::jit::unpickle(pickle.data(), pickle.size());
  const auto parts = elements_of(whole, 1);
  const bool has_table = parts[0].isString() && parts[0].toStringRef() == "FORMAT_WITH_STRING_TABLE";
  const auto texts = has_table ? texts_of(elements_of(whole, 3)[1]) : std::vector<std::string>();
  for (const IValue& row : has_table ? elements_of(parts[2], 0) : parts) check_row(row, texts);
} catch (const std::exception&) {
  throw InputError(text("is damaged: ", printable(member), " is no table of the lines that its code was made from"));
}

}  // namespace hessian_mpi::network
