#include "hessian_mpi/after/matrix_product.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hessian_mpi/base/processors.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"

namespace hessian_mpi::after {
namespace {

// So many numbers of a row are multiplied before the next row: what belongs to them in the vectors stays in the
// innermost cache.
constexpr std::int64_t panel = 2048;
// Sums at once: as many as there are registers for. Of the products of one row with several vectors, or of several rows
// with one vector or none.
constexpr std::int64_t most_at_once = 4;

// Rows that lie `stride` numbers apart.
template <class Number>
struct RowsAtOnce {
  const Number* first;
  std::int64_t stride;
};

// What comes of a panel of some rows.
struct Piece {
  double products[most_at_once] = {};  // of one row with each vector, or of each row with one
  double squares[most_at_once] = {};   // of each row
};

// `count` vectors lie `stride` numbers apart. The pragma lets the compiler add up in as many places as a register has.
template <int count, bool with_squares, class Number>
HESSIAN_MPI_INLINE Piece add_up_row(const Number* numbers, std::int64_t n, const double* vectors, std::int64_t stride) {
  double first = 0;
  double second = 0;
  double third = 0;
  double fourth = 0;
  double squares = 0;
#pragma omp simd reduction(+ : first, second, third, fourth, squares)
  for (std::int64_t k = 0; k < n; ++k) {
    const auto number = static_cast<double>(numbers[k]);
    first += number * vectors[k];
    if constexpr (count > 1) second += number * vectors[stride + k];
    if constexpr (count > 2) third += number * vectors[2 * stride + k];
    if constexpr (count > 3) fourth += number * vectors[3 * stride + k];
    if constexpr (with_squares) squares += number * number;
  }
  return {{first, second, third, fourth}, {squares}};
}

// The same for rows with one vector, or none.
template <bool with_vector, bool with_squares, class Number>
HESSIAN_MPI_INLINE Piece add_up_rows(const Number* numbers, std::int64_t stride, std::int64_t n, const double* vector) {
  double first = 0;
  double second = 0;
  double third = 0;
  double fourth = 0;
  double squares_of_first = 0;
  double squares_of_second = 0;
  double squares_of_third = 0;
  double squares_of_fourth = 0;
#pragma omp simd reduction(+ : first, second, third, fourth, squares_of_first, squares_of_second, squares_of_third, \
                               squares_of_fourth)
  for (std::int64_t k = 0; k < n; ++k) {
    const auto a = static_cast<double>(numbers[k]);
    const auto b = static_cast<double>(numbers[stride + k]);
    const auto c = static_cast<double>(numbers[2 * stride + k]);
    const auto d = static_cast<double>(numbers[3 * stride + k]);
    if constexpr (with_vector) {
      first += a * vector[k];
      second += b * vector[k];
      third += c * vector[k];
      fourth += d * vector[k];
    }
    if constexpr (with_squares) {
      squares_of_first += a * a;
      squares_of_second += b * b;
      squares_of_third += c * c;
      squares_of_fourth += d * d;
    }
  }
  return {{first, second, third, fourth}, {squares_of_first, squares_of_second, squares_of_third, squares_of_fourth}};
}

template <bool with_squares, class Number>
HESSIAN_MPI_INLINE Piece add_up(RowsAtOnce<Number> rows, std::int64_t n, const double* vectors, std::int64_t stride,
                                std::int64_t count) {
  switch (count) {
    case 0:
      return add_up_rows<false, with_squares>(rows.first, rows.stride, n, vectors);
    case 1:
      return add_up_rows<true, with_squares>(rows.first, rows.stride, n, vectors);
    case 2:
      return add_up_row<2, with_squares>(rows.first, n, vectors, stride);
    case 3:
      return add_up_row<3, with_squares>(rows.first, n, vectors, stride);
    default:
      return add_up_row<4, with_squares>(rows.first, n, vectors, stride);
  }
}

#define HESSIAN_MPI_PIECE_OF(Number)                                                                          \
  HESSIAN_MPI_FOR_PROCESSORS Piece measured(RowsAtOnce<Number> rows, std::int64_t n, const double* vectors,   \
                                            std::int64_t stride, std::int64_t count) {                        \
    return add_up<true>(rows, n, vectors, stride, count);                                                     \
  }                                                                                                           \
  HESSIAN_MPI_FOR_PROCESSORS Piece multiplied(RowsAtOnce<Number> rows, std::int64_t n, const double* vectors, \
                                              std::int64_t stride, std::int64_t count) {                      \
    return add_up<false>(rows, n, vectors, stride, count);                                                    \
  }
HESSIAN_MPI_PIECE_OF(float)
HESSIAN_MPI_PIECE_OF(double)

// Vectors as a slab is multiplied by them, and where the products go: N numbers and rows.count() numbers for each.
struct RightHandSides {
  const double* numbers;
  std::int64_t count;
  Rows rows;
  double* products;
};

// Calls visit(row of the slab, squares) for columns [begin, end) of every row, panel by panel; the first pass over the
// vectors measures, if figures are wanted at all. Whichever rows a row is added up with, it is by the same
// instructions: its sums have the same bits in any slab.
template <class Number, class Visit>
void each_piece(const file::Slab& slab, const Number* numbers, std::int64_t begin, std::int64_t end,
                const RightHandSides& vectors, bool with_figures, const Visit& visit) {
  const auto n = slab.columns;
  const auto height = slab.rows.count();
  const auto place = slab.rows.begin - vectors.rows.begin;
  for (auto column = begin; column < end; column += panel) {
    const auto width = std::min(panel, end - column);
    for (std::int64_t v = 0; v == 0 || v < vectors.count; v += most_at_once) {
      const auto count = std::min(most_at_once, vectors.count - v);
      const auto* part = count > 0 ? vectors.numbers + v * n + column : nullptr;
      const bool measure = with_figures && v == 0;
      const bool alone = count > 1 || height < most_at_once;
      const auto rows_at_once = alone ? 1 : most_at_once;
      for (std::int64_t i = 0; i < height; i += rows_at_once) {
        const auto first = std::min(i, height - rows_at_once);  // the last ones with some that have been added up
        const RowsAtOnce<Number> rows{numbers + first * n + column, alone ? 0 : n};
        const auto piece = measure ? measured(rows, width, part, n, count) : multiplied(rows, width, part, n, count);
        for (auto row = i; row < first + rows_at_once; ++row) {
          for (std::int64_t k = 0; k < count; ++k) {
            vectors.products[(v + k) * vectors.rows.count() + place + row] += piece.products[row - first + k];
          }
          if (measure) visit(row, piece.squares[row - first]);
        }
      }
    }
  }
}

void clear(const file::Slab& slab, const RightHandSides& vectors) {
  for (std::int64_t v = 0; v < vectors.count; ++v) {
    auto* first = vectors.products + v * vectors.rows.count() + slab.rows.begin - vectors.rows.begin;
    std::fill(first, first + slab.rows.count(), 0.0);
  }
}

}  // namespace

MatrixSums::MatrixSums(const matrix::ParameterIndex& index)
    : index_(index), squares_(index.entries().size() * index.entries().size()), traces_(index.entries().size()) {}

void MatrixSums::add(const file::Slab& slab, std::span<const double> vectors, std::int64_t count, const Rows& rows,
                     std::span<double> products) {
  const RightHandSides all{vectors.data(), count, rows, products.data()};
  clear(slab, all);
  const auto& entries = index_.entries();
  std::vector<std::size_t> parameter_of;
  for (auto row = slab.rows.begin; row < slab.rows.end; ++row) parameter_of.push_back(index_.locate(row).parameter);
  file::with_numbers(slab, [&](const auto* numbers) {
    for (std::size_t q = 0; q < entries.size(); ++q) {
      const auto begin = entries[q].offset;
      each_piece(slab, numbers, begin, begin + entries[q].size, all, true, [&](std::int64_t i, double squares) {
        squares_[parameter_of[static_cast<std::size_t>(i)] * entries.size() + q] += squares;
      });
    }
    for (std::int64_t i = 0; i < slab.rows.count(); ++i) {
      const auto diagonal = numbers[i * slab.columns + slab.rows.begin + i];
      traces_[parameter_of[static_cast<std::size_t>(i)]] += static_cast<double>(diagonal);
    }
  });
}

MatrixFigures MatrixSums::all(const ranks::Communicator& communicator) const {
  const auto squares = communicator.sum(squares_);
  MatrixFigures figures;
  figures.traces = communicator.sum(traces_);
  figures.trace = std::accumulate(figures.traces.begin(), figures.traces.end(), 0.0);
  figures.frobenius_norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  for (const double square : squares) figures.block_norms.push_back(std::sqrt(square));
  return figures;
}

MatrixProduct::MatrixProduct(const std::filesystem::path& path, const matrix::MatrixShape& matrix, const Rows& own)
    : own_(own), stream_(path, matrix, file::slabs_of(own, matrix)) {}

std::vector<double> MatrixProduct::times(const std::vector<double>& vectors, std::int64_t count,
                                         const std::function<void(std::int64_t)>& visited) {
  std::vector<double> products(static_cast<std::size_t>(own_.count() * count));
  const RightHandSides all{vectors.data(), count, own_, products.data()};
  stream_.each([&](const file::Slab& slab) {
    file::with_numbers(slab, [&](const auto* numbers) {
      each_piece(slab, numbers, 0, slab.columns, all, false, [](std::int64_t, double) {});
    });
    if (visited) visited(slab.rows.count());
  });
  return products;
}

std::vector<double> MatrixProduct::times(const std::vector<double>& vectors, std::int64_t count, MatrixSums& sums,
                                         const std::function<void(std::int64_t)>& visited) {
  std::vector<double> products(static_cast<std::size_t>(own_.count() * count));
  stream_.each([&](const file::Slab& slab) {
    sums.add(slab, vectors, count, own_, products);
    if (visited) visited(slab.rows.count());
  });
  return products;
}

std::vector<double> whole_product(const std::vector<double>& own, std::int64_t count, const matrix::MatrixShape& matrix,
                                  const ranks::Communicator& communicator) {
  const auto& part = matrix.grid.part();
  const auto rows = file::rows_of_rank(matrix, communicator.rank(), communicator.size());
  return ranks::whole_vectors(own.data(), count, {rows.begin - part.begin, rows.end - part.begin}, part.count(),
                              communicator);
}

}  // namespace hessian_mpi::after
