#include "hessian_mpi/layers/later_columns.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace hessian_mpi::layers {

void LaterColumns::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                           const std::function<void(double)>& advance) {
  if (columns.begin >= first_) return engine_.compute(rows, columns, storage, out, advance);
  const Rows later{first_, columns.end};
  const auto bytes = static_cast<std::int64_t>(bytes_of(storage));
  const auto bytes_of_row = columns.count() * bytes;
  const auto bytes_of_later = later.count() * bytes;
  std::vector<char> numbers(static_cast<std::size_t>(rows.count() * bytes_of_later));
  engine_.compute(rows, later, storage, numbers.data(), advance);
  for (auto row = rows.begin; row < rows.end; ++row) {
    char* const to = static_cast<char*>(out) + (row - rows.begin) * bytes_of_row;
    const char* const from = numbers.data() + (row - rows.begin) * bytes_of_later;
    std::memcpy(to + (first_ - columns.begin) * bytes, from, static_cast<std::size_t>(bytes_of_later));
  }
  earlier_.fill(rows, out, columns.count());
}

}  // namespace hessian_mpi::layers
