#pragma once
/// A = (H + H^T) / 2 of a file's H, or of a block of it.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/file/row_stream.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

/// Each rank has contiguous rows: in memory where they fit, else read from the file again for every product.
class StoredOperator final : public SymmetricOperator {
 public:
  /// Collective. matrix: whole, as read_layout() found it. memory: bytes that a rank's rows may take. The
  /// communicator must outlive the object.
  StoredOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix, std::uint64_t memory,
                 const ranks::Communicator& communicator);

  /// Collective. The same of the block that these ranges of rows and columns make; of the whole where there are none.
  StoredOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix, const std::vector<Rows>& ranges,
                 std::uint64_t memory, const ranks::Communicator& communicator);

  bool in_memory() const { return in_memory_; }

  /// Collective. Of H's numbers: those of A but for the part of H that is not symmetric, with which the squares add up
  /// to more.
  struct Sums {
    double squares = 0;
    double trace = 0;
  };
  Sums sums();

 private:
  StoredOperator(const matrix::MatrixShape& matrix, std::vector<Rows> ranges, const ranks::Communicator& communicator);
  // Takes 16 N bytes for each vector. Throws on all ranks where the file cannot be read.
  void apply(const double* vectors_here, std::int64_t count, double* products) override;
  void add_slab(const file::Slab& slab, const double* whole, const double* vectors_here, std::int64_t count,
                double* by_rows, double* by_columns);
  void each_slab(const std::function<void(const file::Slab&)>& visit);
  void each_stored_slab(const std::function<void(const file::Slab&)>& visit);

  matrix::MatrixShape matrix_;
  std::optional<file::RowStream> stream_;      // of a whole matrix
  std::optional<file::HessianReader> reader_;  // of a block
  std::vector<Rows> ranges_;                   // of it
  bool in_memory_;
  std::vector<char> rows_;         // all of this rank's, if in memory
  std::vector<double> as_double_;  // those of a slab
};

}  // namespace hessian_mpi::solvers
