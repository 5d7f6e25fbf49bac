#include "lean_derivatives/narrow_products.hpp"

#include <cstddef>
#include <cstring>
#include <vector>

#include "hessian_mpi/base/processors.hpp"
#include "lean_derivatives/small_tiles.hpp"

namespace hessian_mpi::network {
namespace {

// Some rows of a product. b: [inner][pieces of a vector of so many bytes], zero behind the columns.
template <int bytes, int rows, int pieces, class Number>
HESSIAN_MPI_INLINE void multiply_rows(const NarrowShape& shape, const Number* a, std::int64_t of_row,
                                      std::int64_t of_column, const Number* b, bool adds, Number* c) {
  typename VectorOf<bytes, Number>::Type sums[rows][pieces] = {};
  constexpr auto width = pieces * bytes / static_cast<int>(sizeof(Number));
  add_products<bytes, rows, pieces>(shape.inner, a, of_row, of_column, b, width, sums);
  Number finished[rows][width];
  std::memcpy(finished, sums, sizeof(sums));
  for (int i = 0; i < rows; ++i, c += shape.columns) {
    for (std::int64_t j = 0; j < shape.columns; ++j) c[j] = adds ? c[j] + finished[i][j] : finished[i][j];
  }
}

// All rows from one on, the last of them fewer at a time.
template <int bytes, int rows, int pieces, class Number>
HESSIAN_MPI_INLINE void multiply_from(std::int64_t row, const NarrowShape& shape, const Number* a, std::int64_t of_row,
                                      std::int64_t of_column, const Number* b, bool adds, Number* c) {
  for (; row + rows <= shape.rows; row += rows) {
    Number* const to = c + row * shape.columns;
    multiply_rows<bytes, rows, pieces>(shape, a + row * of_row, of_row, of_column, b, adds, to);
  }
  if constexpr (rows > 1) multiply_from<bytes, rows / 2, pieces>(row, shape, a, of_row, of_column, b, adds, c);
}

// As many pieces as the columns need. Sums of as many rows as there are registers for.
template <int bytes, int pieces, class Number>
HESSIAN_MPI_INLINE void multiply_all(const NarrowShape& shape, Matrices<Number> a, Matrices<Number> b, bool adds,
                                     Number* c) {
  constexpr auto width = std::int64_t{pieces} * bytes / static_cast<std::int64_t>(sizeof(Number));
  constexpr int rows = bytes == 64 ? 8 : 8 / pieces;
  if constexpr (width < most_narrow_columns<Number>) {
    if (shape.columns > width) return multiply_all<bytes, 2 * pieces>(shape, a, b, adds, c);
  }
  std::vector<Number> near(static_cast<std::size_t>(shape.inner * width), Number{0});
  for (std::int64_t m = 0; m < shape.matrices; ++m, c += shape.rows * shape.columns) {
    for (std::int64_t k = 0; k < shape.inner; ++k) {
      const Number* const from = b.numbers + k * b.of_row;
      for (std::int64_t j = 0; j < shape.columns; ++j) near[k * width + j] = from[j * b.of_column];
    }
    multiply_from<bytes, rows, pieces>(0, shape, a.numbers, a.of_row, a.of_column, near.data(), adds, c);
    a.numbers += a.of_matrix;
    b.numbers += b.of_matrix;
  }
}

template <Processor kind>
struct Functions;

// NOLINTBEGIN(bugprone-macro-parentheses): attributes and names
#define HESSIAN_MPI_NARROW_FOR(kind, bytes, target)                                                             \
  template <>                                                                                                   \
  struct Functions<Processor::kind> {                                                                           \
    template <class Number>                                                                                     \
    target static void multiply(const NarrowShape& shape, const Matrices<Number>& a, const Matrices<Number>& b, \
                                bool adds, Number* c) {                                                         \
      multiply_all<bytes, 1>(shape, a, b, adds, c);                                                             \
    }                                                                                                           \
  }
HESSIAN_MPI_FOR_EACH_PROCESSOR(HESSIAN_MPI_NARROW_FOR);
#undef HESSIAN_MPI_NARROW_FOR
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace

void multiply_narrow(const NarrowShape& shape, const Matrices<float>& a, const Matrices<float>& b, bool adds,
                     float* c) {
  for_this_processor<Functions>([&](auto own) { own.multiply(shape, a, b, adds, c); });
}

void multiply_narrow(const NarrowShape& shape, const Matrices<double>& a, const Matrices<double>& b, bool adds,
                     double* c) {
  for_this_processor<Functions>([&](auto own) { own.multiply(shape, a, b, adds, c); });
}

}  // namespace hessian_mpi::network
