#pragma once
/// Files with matrices whose eigenvalues are formulas.

#include <cmath>
#include <numbers>
#include <vector>

#include "matrix_file.hpp"

namespace hessian_mpi {

/// Second differences, 2 on the diagonal and -1 beside it.
inline std::vector<double> second_differences(std::int64_t n) {
  std::vector<double> numbers(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i) {
    numbers[static_cast<std::size_t>(i * n + i)] = 2;
    if (i + 1 == n) continue;
    numbers[static_cast<std::size_t>(i * n + i + 1)] = numbers[static_cast<std::size_t>((i + 1) * n + i)] = -1;
  }
  return numbers;
}
/// Eigenvalue k, ascending from 0.
inline double eigenvalue_of_differences(std::int64_t k, std::int64_t n) {
  return 2 - 2 * std::cos(std::numbers::pi * static_cast<double>(k + 1) / static_cast<double>(n + 1));
}

}  // namespace hessian_mpi
