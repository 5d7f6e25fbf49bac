#pragma once
/// A dense N x N matrix of doubles spread over all ranks in blocks, as ScaLAPACK wants it: block (i, j) of 64 x 64
/// lies on the rank at (i mod rows, j mod columns) of a grid of ranks, so that each holds N^2 / ranks numbers.

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::solvers {

/// Ranks in a rectangle: a context of BLACS, owned.
class ProcessGrid {
 public:
  /// Collective. All ranks of the communicator, row by row.
  ProcessGrid(const ranks::Communicator& communicator, int rows, int columns);
  ~ProcessGrid();
  ProcessGrid(const ProcessGrid&) = delete;
  ProcessGrid& operator=(const ProcessGrid&) = delete;

  int context() const { return context_; }
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  int row() const { return row_; }
  int column() const { return column_; }

 private:
  int context_ = -1;
  int rows_;
  int columns_;
  int row_ = 0;
  int column_ = 0;
};

/// The rectangle nearest to a square that so many ranks fill: {rows, columns}, rows <= columns.
std::array<int, 2> nearest_to_square(int ranks);

/// Nine numbers that tell ScaLAPACK where a matrix lies.
using Descriptor9 = std::array<int, 9>;

/// A rows x columns matrix in blocks over a grid, column-major on each rank. Owns this rank's numbers, zero at first.
class DistributedMatrix {
 public:
  /// Collective. The grid must outlive the object. Throws InputError where a rank's share has 2^31 numbers or more,
  /// which ScaLAPACK cannot count.
  DistributedMatrix(const ProcessGrid& grid, std::int64_t rows, std::int64_t columns, int block_rows,
                    int block_columns);

  const ProcessGrid& grid() const { return *grid_; }
  int rows() const { return descriptor_[2]; }
  int columns() const { return descriptor_[3]; }
  int block() const { return descriptor_[4]; }
  const Descriptor9& descriptor() const { return descriptor_; }
  std::int64_t own_rows() const { return own_rows_; }
  std::int64_t own_columns() const { return own_columns_; }
  std::vector<double>& numbers() { return numbers_; }
  const std::vector<double>& numbers() const { return numbers_; }
  double* data() { return numbers_.data(); }
  const double* data() const { return numbers_.data(); }

  /// The row and column of the matrix that this rank's row i and column j are.
  std::int64_t row_of(std::int64_t i) const;
  std::int64_t column_of(std::int64_t j) const;

 private:
  const ProcessGrid* grid_;
  Descriptor9 descriptor_{};
  std::int64_t own_rows_ = 0;
  std::int64_t own_columns_ = 0;
  std::vector<double> numbers_;
};

/// Calls visit(number, row, column) for every number that this rank holds. Matrix: a DistributedMatrix, const or not.
template <class Matrix, class Visit>
void each_number(Matrix& matrix, const Visit& visit) {
  for (std::int64_t j = 0; j < matrix.own_columns(); ++j) {
    const auto column = matrix.column_of(j);
    for (std::int64_t i = 0; i < matrix.own_rows(); ++i) {
      visit(matrix.data()[j * matrix.own_rows() + i], matrix.row_of(i), column);
    }
  }
}

/// Which half of a symmetric matrix holds numbers.
enum class Half { lower, both };

/// What is known of a symmetric matrix before it is decomposed.
struct SymmetricSums {
  double trace = 0;
  double squares = 0;  ///< sum of A_ij^2
  double largest = 0;  ///< largest |A_ij|
};

/// Bytes that a rank takes at most for reading, beside the matrix.
constexpr std::int64_t bytes_of_reading = 64 << 20;

/// Collective. A square matrix in blocks of equal sides, for n rows. Throws InputError where there are too few rows for
/// so many ranks, or too many for so few.
DistributedMatrix square_matrix(const ProcessGrid& grid, std::int64_t n);

/// Collective. Reads A = (H + H^T) / 2: each rank reads contiguous rows, once, and hands them to their owners. matrix:
/// of n rows, as square_matrix() makes it. advance: called with rows that this rank has read. ranges: of the rows and
/// columns of a block, in its place; none: the whole matrix. Throws RunError where a number is not finite.
SymmetricSums read_symmetric_part(const std::filesystem::path& path, Half half, DistributedMatrix& matrix,
                                  const ranks::Communicator& communicator, const std::function<void(double)>& advance,
                                  const std::vector<Rows>& ranges = {});

/// Collective. Makes the upper half of a square matrix the mirror image of the lower one.
void fill_upper_half(DistributedMatrix& matrix);

/// Collective. Vectors of as many numbers as the matrix has rows, one after the other, the same on all ranks, as the
/// columns of a matrix that is spread as it is.
DistributedMatrix spread(const std::vector<double>& vectors, const DistributedMatrix& like);

/// Collective. All numbers of a matrix, column by column, on all ranks.
std::vector<double> gathered(const DistributedMatrix& matrix, const ranks::Communicator& communicator);

/// Collective. The product of a square matrix, both halves of which count, and vectors that all ranks have, one after
/// the other; on all ranks.
std::vector<double> product(const DistributedMatrix& matrix, const std::vector<double>& vectors,
                            const ranks::Communicator& communicator);

/// Collective. The rows and columns of these ranges, in their order, as a matrix of its own.
DistributedMatrix principal_part(const DistributedMatrix& matrix, const std::vector<Rows>& ranges);

/// Collective. Columns of a matrix by the ranks: visit gets those of this rank, some at a time, which lie one after the
/// other: the first's number, how many (0 where there are none left for it), and the numbers. Called equally often on
/// all ranks.
void each_column_panel(const DistributedMatrix& matrix, const ranks::Communicator& communicator,
                       const std::function<void(const Rows& columns, const double* numbers)>& visit);

}  // namespace hessian_mpi::solvers
