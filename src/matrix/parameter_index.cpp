#include "hessian_mpi/matrix/parameter_index.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace hessian_mpi::matrix {

std::string text_of_shape(const std::vector<std::int64_t>& shape) {
  std::string result = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) result += (d == 0 ? "" : ", ") + std::to_string(shape[d]);
  return result + "]";
}

void ParameterIndex::append(std::string name, std::vector<std::int64_t> shape) {
  const auto size = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  entries_.push_back({std::move(name), std::move(shape), size_, size});
  size_ += size;
}

ParameterIndex::Location ParameterIndex::locate(std::int64_t index) const {
  // The last entry that begins at or before the index; empty entries share their offset with the one after them.
  const auto after = std::upper_bound(entries_.begin(), entries_.end(), index,
                                      [](std::int64_t i, const ParameterEntry& entry) { return i < entry.offset; });
  const auto entry = std::prev(after);
  return {static_cast<std::size_t>(entry - entries_.begin()), index - entry->offset};
}

std::string ParameterIndex::describe(std::int64_t index) const {
  const Location location = locate(index);
  const auto& entry = entries_[location.parameter];
  std::vector<std::int64_t> position(entry.shape.size());
  std::int64_t rest = location.element;
  for (std::size_t d = entry.shape.size(); d-- > 0;) {
    position[d] = rest % entry.shape[d];
    rest /= entry.shape[d];
  }
  return entry.name + text_of_shape(position);
}

bool matches_any(const std::string& name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

}  // namespace hessian_mpi::matrix
