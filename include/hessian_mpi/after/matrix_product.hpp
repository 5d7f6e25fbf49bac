#pragma once
/// Y = H X for a few vectors, and the trace and norms of H, in one pass over its rows, which may be
/// larger than memory. Numbers are added in float64. Not collective unless marked so.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "hessian_mpi/file/row_stream.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::after {

/// What the rows that were looked at amount to. A number of them that is not finite shows in the norms.
struct MatrixFigures {
  std::vector<double> block_norms;  ///< P x P, row-major: Frobenius norm of the block of parameters p and q
  std::vector<double> traces;       ///< of the P blocks on the diagonal
  double trace = 0;
  double frobenius_norm = 0;
};

/// Adds up the figures of a matrix, slab by slab, and multiplies the rows by vectors on the way.
class MatrixSums {
 public:
  /// The index must outlive the object.
  explicit MatrixSums(const matrix::ParameterIndex& index);

  /// Adds rows. vectors: `count` vectors of N numbers each, one after the other. products: for each vector in turn one
  /// number for each row of `rows`, which holds those of the slab.
  void add(const file::Slab& slab, std::span<const double> vectors, std::int64_t count, const Rows& rows,
           std::span<double> products);
  void add(const file::Slab& slab) { add(slab, {}, 0, {}, {}); }

  /// Collective. The figures of what all ranks have added, on all of them.
  MatrixFigures all(const ranks::Communicator& communicator) const;

 private:
  const matrix::ParameterIndex& index_;
  std::vector<double> squares_;  // P x P
  std::vector<double> traces_;   // P
};

/// A stored matrix that multiplies vectors, some of its rows on each rank:
///
///   MatrixProduct product(file, read_layout(file).matrix, rows_of_rank(matrix, world.rank(), world.size()));
///   const auto own = product.times(x, 1);                        // rows.count() numbers
///   const auto all = whole_product(own, 1, matrix, world);       // those of all ranks
class MatrixProduct {
 public:
  /// own: the rows of this rank, any that the file holds. matrix: as read_layout() found it. Throws as RowStream does.
  MatrixProduct(const std::filesystem::path& path, const matrix::MatrixShape& matrix, const Rows& own);

  const Rows& own() const { return own_; }

  /// vectors: `count` vectors of N numbers each, one after the other, the same on all ranks. Returns for each of them
  /// in turn own().count() numbers. visited: called after each slab with the number of its rows; may throw to end the
  /// pass, and calls HDF5 as little as a visitor of RowStream. Reads the rows once, whatever the count.
  std::vector<double> times(const std::vector<double>& vectors, std::int64_t count,
                            const std::function<void(std::int64_t)>& visited = {});
  /// The same, and adds the rows to sums.
  std::vector<double> times(const std::vector<double>& vectors, std::int64_t count, MatrixSums& sums,
                            const std::function<void(std::int64_t)>& visited = {});

 private:
  Rows own_;
  file::RowStream stream_;
};

/// Collective. The products of all ranks, each with the rows that rows_of_rank() gives it: for each of the `count`
/// vectors in turn a number for every row of the file.
std::vector<double> whole_product(const std::vector<double>& own, std::int64_t count, const matrix::MatrixShape& matrix,
                                  const ranks::Communicator& communicator);

}  // namespace hessian_mpi::after
