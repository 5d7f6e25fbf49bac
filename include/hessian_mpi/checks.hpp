#pragma once
/// Proofs that the file holds the Hessian: what is read back is what was computed, it is symmetric, rows derived again
/// agree. All read the file, not memory. (differences.hpp has another one.)

#include <cstdint>
#include <filesystem>
#include <vector>

#include "hessian_mpi/block_table.hpp"
#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/differences.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

/// What the blocks that were read back showed.
struct BlockCheck {
  std::int64_t checked = 0;
  std::vector<std::int64_t> damaged;  ///< blocks whose bytes in the file are not those that were computed
};

/// Collective. Compares marked blocks with their checksums. Each is read by another rank than the one that wrote it,
/// where there is another. records: one per block, the same on all ranks. written: the blocks of this run, as they
/// were shared.
BlockCheck verify_blocks(const std::filesystem::path& file, const MatrixShape& matrix,
                         const std::vector<BlockRecord>& records, const std::vector<SharedBlocks>& written,
                         Verify which, const Communicator& communicator);

/// Rows drawn at random, in order, some from every parameter that the part of the matrix holds: 64 or more where there
/// are as many. The same for the same arguments.
std::vector<std::int64_t> sample_for_symmetry(const ParameterIndex& index, const Rows& part);

/// Collective. Largest |H_ij - H_ji| for i and j of the rows, divided by `largest`, the largest |H_ij| of all.
double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest,
                      const Communicator& communicator);
/// Not collective: the same by one process.
double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest);

/// `count` different rows drawn at random from `rows`, in order; the same for the same arguments.
std::vector<std::int64_t> sample_rows(const Rows& rows, int count);

/// Collective. The rows are derived again, each on one rank, and compared with the file: those of a Hessian from the
/// concatenated gradient, those of another matrix by JacobianRows.
/// The largest difference of a row divided by the row's largest number, or a hundredth of `largest` if that is more.
double row_error(const std::filesystem::path& file, const Problem& problem, Matrix matrix,
                 const std::vector<std::int64_t>& rows, double largest, const Communicator& communicator);

/// Above these a run has failed: rounding alone does not reach them.
struct Tolerances {
  double symmetry;
  double row;
  DifferenceTolerances difference;
};
/// For numbers computed or stored in this precision, whichever is coarser.
Tolerances tolerances_of(Precision precision);

}  // namespace hessian_mpi
