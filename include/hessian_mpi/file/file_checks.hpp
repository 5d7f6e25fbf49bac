#pragma once
/// What the file proves alone, without the network: what is read back is what was computed, and it is symmetric.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/file/block_table.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::file {

/// What the blocks that were read back showed.
struct BlockCheck {
  std::int64_t checked = 0;
  std::vector<std::int64_t> damaged;  ///< blocks whose bytes in the file are not those that were computed
};

/// Collective. Compares marked blocks with their checksums. Each is read by another rank than the one that wrote it,
/// where there is another. records: one per block, the same on all ranks. written: the blocks of this run, as they
/// were shared.
BlockCheck verify_blocks(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                         const std::vector<BlockRecord>& records, const std::vector<matrix::SharedBlocks>& written,
                         Verify which, const ranks::Communicator& communicator);

/// Collective. Compares all marked blocks of a file with their checksums, each rank a contiguous share of them. blocks:
/// as the file lists them, which may be those of the parts that it was joined from. visited: called after each block of
/// this rank with the number of its rows; may be empty.
BlockCheck verify_stored_blocks(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                                const std::vector<StoredBlock>& blocks,
                                const std::function<void(std::int64_t)>& visited,
                                const ranks::Communicator& communicator);

/// Collective. The same for a packed upper triangle (RowLayout of hessian_file.hpp).
BlockCheck verify_packed_blocks(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                                const std::vector<StoredBlock>& blocks,
                                const std::function<void(std::int64_t)>& visited,
                                const ranks::Communicator& communicator);

/// Rows drawn at random, in order, some from every parameter that the part of the matrix holds: 64 or more where there
/// are as many. The same for the same arguments.
std::vector<std::int64_t> sample_for_symmetry(const matrix::ParameterIndex& index, const Rows& part);

/// Those of a matrix, in groups whose rows have entries in each other's columns. Of diagonal blocks, several from each
/// of some; of a diagonal, each for itself.
std::vector<std::vector<std::int64_t>> samples_of(const matrix::ParameterIndex& index,
                                                  const matrix::MatrixShape& matrix);

/// Collective. Largest |H_ij - H_ji| for i and j of the rows, divided by `largest`, the largest |H_ij| of all.
double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest,
                      const ranks::Communicator& communicator);
/// Not collective: the same by one process.
double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest);

/// `count` different rows drawn at random from `rows`, in order; the same for the same arguments.
std::vector<std::int64_t> sample_rows(const Rows& rows, int count);

}  // namespace hessian_mpi::file
