#include "hessian_mpi/engines/diagonal.hpp"

#include <algorithm>
#include <cstring>

namespace hessian_mpi::engines {
namespace {

constexpr std::int64_t largest_side = 64;

}  // namespace

std::uint64_t Diagonal::bytes_per_row(std::int64_t /*columns*/) const {
  return engine_.bytes_per_row(largest_side) + largest_side * sizeof(double);
}

void Diagonal::compute(const Rows& rows, const Rows& /*columns*/, Precision storage, void* out,
                       const std::function<void(double)>& advance) {
  const auto width = bytes_of(storage);
  auto* to = static_cast<char*>(out);
  for (auto begin = rows.begin; begin < rows.end; begin += largest_side) {
    const Rows some{begin, std::min(begin + largest_side, rows.end)};
    const auto side = static_cast<std::size_t>(some.count());
    square_.resize(side * side * width);
    engine_.compute(some, some, storage, square_.data(), advance);
    for (std::size_t k = 0; k < side; ++k, to += width) {
      std::memcpy(to, square_.data() + k * (side + 1) * width, width);
    }
  }
}

}  // namespace hessian_mpi::engines
