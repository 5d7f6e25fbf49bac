#pragma once
/// Products of many small matrices whose results have few columns, as heads of attention make them: MKL takes up to
/// five times as long for these as for wide ones. Internal to the lean derivatives.

#include <cstdint>

namespace hessian_mpi::network {

/// Columns of a result that is narrow.
template <class Number>
constexpr std::int64_t most_narrow_columns = 128 / sizeof(Number);

/// Matrices where they lie: number [m][i][j] at m of_matrix + i of_row + j of_column.
template <class Number>
struct Matrices {
  const Number* numbers;
  std::int64_t of_matrix;
  std::int64_t of_row;
  std::int64_t of_column;
};

/// As many products A B, of [rows, inner] and [inner, columns].
struct NarrowShape {
  std::int64_t matrices;
  std::int64_t rows;
  std::int64_t inner;
  std::int64_t columns;  ///< at most most_narrow_columns
};

/// c: [matrices, rows, columns], in one run; adds: to what it holds.
void multiply_narrow(const NarrowShape& shape, const Matrices<float>& a, const Matrices<float>& b, bool adds, float* c);
void multiply_narrow(const NarrowShape& shape, const Matrices<double>& a, const Matrices<double>& b, bool adds,
                     double* c);

}  // namespace hessian_mpi::network
