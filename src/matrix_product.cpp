#include "hessian_mpi/matrix_product.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hessian_mpi {
namespace {

#define HESSIAN_MPI_INLINE inline __attribute__((always_inline))

// So many numbers of a row are multiplied before the next row: what belongs to them in the vectors stays in the
// innermost cache.
constexpr std::int64_t panel = 2048;
// Vectors that a row is multiplied by at once: as many as there are registers for.
constexpr std::int64_t most_at_once = 4;

// What comes of a piece of a row.
struct Piece {
  double products[most_at_once] = {};
  double squares = 0;
};

// Numbers of a row and those that belong to them in `count` vectors, which lie `stride` numbers apart. The pragma lets
// the compiler add them up in as many places as a register has.
template <int count, bool with_squares, class Number>
HESSIAN_MPI_INLINE Piece add_up(const Number* numbers, std::int64_t n, const double* vectors, std::int64_t stride) {
  double first = 0;
  double second = 0;
  double third = 0;
  double fourth = 0;
  double squares = 0;
#pragma omp simd reduction(+ : first, second, third, fourth, squares)
  for (std::int64_t k = 0; k < n; ++k) {
    const auto number = static_cast<double>(numbers[k]);
    if constexpr (count > 0) first += number * vectors[k];
    if constexpr (count > 1) second += number * vectors[stride + k];
    if constexpr (count > 2) third += number * vectors[2 * stride + k];
    if constexpr (count > 3) fourth += number * vectors[3 * stride + k];
    if constexpr (with_squares) squares += number * number;
  }
  return {{first, second, third, fourth}, squares};
}

template <bool with_squares, class Number>
HESSIAN_MPI_INLINE Piece add_up(const Number* numbers, std::int64_t n, const double* vectors, std::int64_t stride,
                                std::int64_t count) {
  switch (count) {
    case 0:
      return add_up<0, with_squares>(numbers, n, vectors, stride);
    case 1:
      return add_up<1, with_squares>(numbers, n, vectors, stride);
    case 2:
      return add_up<2, with_squares>(numbers, n, vectors, stride);
    case 3:
      return add_up<3, with_squares>(numbers, n, vectors, stride);
    default:
      return add_up<4, with_squares>(numbers, n, vectors, stride);
  }
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HESSIAN_MPI_FOR_PROCESSORS __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define HESSIAN_MPI_FOR_PROCESSORS
#endif
#define HESSIAN_MPI_PIECE_OF(Number)                                                                        \
  HESSIAN_MPI_FOR_PROCESSORS Piece measured(const Number* numbers, std::int64_t n, const double* vectors,   \
                                            std::int64_t stride, std::int64_t count) {                      \
    return add_up<true>(numbers, n, vectors, stride, count);                                                \
  }                                                                                                         \
  HESSIAN_MPI_FOR_PROCESSORS Piece multiplied(const Number* numbers, std::int64_t n, const double* vectors, \
                                              std::int64_t stride, std::int64_t count) {                    \
    return add_up<false>(numbers, n, vectors, stride, count);                                               \
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

// Calls visit(row of the slab, piece) for columns [begin, end) of every row, panel by panel; the first pass over the
// vectors measures, if figures are wanted at all.
template <class Number, class Visit>
void each_piece(const Slab& slab, const Number* numbers, std::int64_t begin, std::int64_t end,
                const RightHandSides& vectors, bool with_figures, const Visit& visit) {
  const auto n = slab.columns;
  const auto first = slab.rows.begin - vectors.rows.begin;
  for (auto column = begin; column < end; column += panel) {
    const auto width = std::min(panel, end - column);
    for (std::int64_t v = 0; v == 0 || v < vectors.count; v += most_at_once) {
      const auto count = std::min(most_at_once, vectors.count - v);
      const auto* part = count > 0 ? vectors.numbers + v * n + column : nullptr;
      for (std::int64_t i = 0; i < slab.rows.count(); ++i) {
        const bool measure = with_figures && v == 0;
        const auto* row = numbers + i * n + column;
        const auto piece = measure ? measured(row, width, part, n, count) : multiplied(row, width, part, n, count);
        for (std::int64_t k = 0; k < count; ++k) {
          vectors.products[(v + k) * vectors.rows.count() + first + i] += piece.products[k];
        }
        if (measure) visit(i, piece);
      }
    }
  }
}

void clear(const Slab& slab, const RightHandSides& vectors) {
  for (std::int64_t v = 0; v < vectors.count; ++v) {
    auto* first = vectors.products + v * vectors.rows.count() + slab.rows.begin - vectors.rows.begin;
    std::fill(first, first + slab.rows.count(), 0.0);
  }
}

}  // namespace

MatrixSums::MatrixSums(const ParameterIndex& index)
    : index_(index), squares_(index.entries().size() * index.entries().size()), traces_(index.entries().size()) {}

void MatrixSums::add(const Slab& slab, std::span<const double> vectors, std::int64_t count, const Rows& rows,
                     std::span<double> products) {
  const RightHandSides all{vectors.data(), count, rows, products.data()};
  clear(slab, all);
  const auto& entries = index_.entries();
  std::vector<std::size_t> parameter_of;
  for (auto row = slab.rows.begin; row < slab.rows.end; ++row) parameter_of.push_back(index_.locate(row).parameter);
  with_numbers(slab, [&](const auto* numbers) {
    for (std::size_t q = 0; q < entries.size(); ++q) {
      const auto begin = entries[q].offset;
      each_piece(slab, numbers, begin, begin + entries[q].size, all, true, [&](std::int64_t i, const Piece& piece) {
        squares_[parameter_of[static_cast<std::size_t>(i)] * entries.size() + q] += piece.squares;
      });
    }
    for (std::int64_t i = 0; i < slab.rows.count(); ++i) {
      const auto diagonal = numbers[i * slab.columns + slab.rows.begin + i];
      traces_[parameter_of[static_cast<std::size_t>(i)]] += static_cast<double>(diagonal);
    }
  });
}

MatrixFigures MatrixSums::all(const Communicator& communicator) const {
  const auto squares = communicator.sum(squares_);
  MatrixFigures figures;
  figures.traces = communicator.sum(traces_);
  figures.trace = std::accumulate(figures.traces.begin(), figures.traces.end(), 0.0);
  figures.frobenius_norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  for (const double square : squares) figures.block_norms.push_back(std::sqrt(square));
  return figures;
}

MatrixProduct::MatrixProduct(const std::filesystem::path& path, const MatrixShape& matrix, const Rows& own)
    : own_(own), stream_(path, matrix, slabs_of(own, matrix)) {}

std::vector<double> MatrixProduct::times(const std::vector<double>& vectors, std::int64_t count,
                                         const std::function<void(std::int64_t)>& visited) {
  std::vector<double> products(static_cast<std::size_t>(own_.count() * count));
  const RightHandSides all{vectors.data(), count, own_, products.data()};
  stream_.each([&](const Slab& slab) {
    with_numbers(slab, [&](const auto* numbers) {
      each_piece(slab, numbers, 0, slab.columns, all, false, [](std::int64_t, const Piece&) {});
    });
    if (visited) visited(slab.rows.count());
  });
  return products;
}

std::vector<double> MatrixProduct::times(const std::vector<double>& vectors, std::int64_t count, MatrixSums& sums,
                                         const std::function<void(std::int64_t)>& visited) {
  std::vector<double> products(static_cast<std::size_t>(own_.count() * count));
  stream_.each([&](const Slab& slab) {
    sums.add(slab, vectors, count, own_, products);
    if (visited) visited(slab.rows.count());
  });
  return products;
}

std::vector<double> whole_product(const std::vector<double>& own, std::int64_t count, const MatrixShape& matrix,
                                  const Communicator& communicator) {
  const auto rows = matrix.grid.part().count();
  std::vector<std::int64_t> begins;  // in bytes, of the ranks' pieces
  for (int rank = 0; rank < communicator.size(); ++rank) {
    const auto begin = rows_of_rank(matrix, rank, communicator.size()).begin - matrix.grid.part().begin;
    begins.push_back(begin * static_cast<std::int64_t>(sizeof(double)));
  }
  begins.push_back(rows * static_cast<std::int64_t>(sizeof(double)));
  const auto first = begins[static_cast<std::size_t>(communicator.rank())] / static_cast<std::int64_t>(sizeof(double));
  const auto own_rows = count > 0 ? static_cast<std::int64_t>(own.size()) / count : 0;
  std::vector<double> all(static_cast<std::size_t>(rows * count));
  for (std::int64_t v = 0; v < count; ++v) {
    auto* of_vector = all.data() + v * rows;
    std::copy_n(own.data() + v * own_rows, own_rows, of_vector + first);
    communicator.complete(reinterpret_cast<char*>(of_vector), begins);
  }
  return all;
}

}  // namespace hessian_mpi
