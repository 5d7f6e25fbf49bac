#pragma once
/// What products of small matrices are made of. Internal to the lean derivatives.

#include <cstdint>

#include "hessian_mpi/base/processors.hpp"

namespace hessian_mpi::network {

/// Adds the product of some rows of A, number [i][k] at i of_row + k of_column, and some columns of B to sums that stay
/// in registers. B has as many pieces of a vector of so many bytes in a row, rows being of_b apart.
template <int bytes, int rows, int pieces, class Number>
HESSIAN_MPI_INLINE void add_products(std::int64_t inner, const Number* a, std::int64_t of_row, std::int64_t of_column,
                                     const Number* b, std::int64_t of_b,
                                     typename VectorOf<bytes, Number>::Type (&sums)[rows][pieces]) {
  constexpr int lanes = bytes / static_cast<int>(sizeof(Number));
  for (std::int64_t k = 0; k < inner; ++k, a += of_column, b += of_b) {
    typename VectorOf<bytes, Number>::Type of_this[pieces];
#pragma GCC unroll 8
    for (int v = 0; v < pieces; ++v) {
      of_this[v] = *reinterpret_cast<const typename VectorOf<bytes, Number>::InMemory*>(b + v * lanes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < pieces; ++v) sums[i][v] += a[i * of_row] * of_this[v];
    }
  }
}

}  // namespace hessian_mpi::network
