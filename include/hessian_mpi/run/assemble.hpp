#pragma once
/// Assembles the matrix: every rank has its engine compute its blocks, a buffer at a time, and all ranks write the
/// buffers collectively into the file, while the next ones are computed on a thread beside. Where rows are born, looked
/// at, given a checksum, handed over and marked.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/base/work.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/file/checkpoint.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/ranks/stop_point.hpp"

namespace hessian_mpi::run {

/// What a rank knows of its rows when they are written.
struct Assembled {
  std::vector<std::int64_t> nonfinite_rows;  ///< rows of this rank with a number that is NaN or infinite
  double compute_seconds = 0;                ///< partly at the same time as writing
  double pass_seconds = 0;                   ///< of these, in passes through the network
  double exchange_seconds = 0;               ///< and for the columns of earlier rows
  double write_seconds = 0;                  ///< writing and checkpoints
  double checkpoint_seconds = 0;             ///< checkpoints alone
};

/// Computed and written at once, where rows are not longer. Larger buffers write no faster, and leave the cache before
/// they are written.
constexpr std::int64_t buffer_bytes = 16 << 20;

/// Blocks that fit into `memory` bytes: at most so many are computed before they are written. Depends on nothing that
/// differs between ranks but memory. Throws InputError where not even one fits, naming --memory and the least it takes.
std::int64_t blocks_in_memory(const engines::Engine& engine, const matrix::MatrixShape& matrix, std::uint64_t memory);

/// Blocks to be made, of which at most so many are in memory on a rank.
struct Assignment {
  const matrix::MatrixShape& matrix;
  matrix::SharedBlocks blocks;
  std::int64_t blocks_at_once = 1;
  std::function<Work(const Rows&)> work = {};  ///< what some rows take, for the progress
};

/// Collective over the communicator. engine: its passes count from its beginning. Computes and writes the blocks, each
/// rank its share of them, and marks them as often as checkpoints are due: the last ones are left to the caller's next
/// checkpoint. Ends early where any rank is asked to stop. Blocks with numbers that are not finite are not marked. A
/// failure on any rank is thrown on all, as RunError; what was written before is marked then.
Assembled assemble(engines::Engine& engine, const Assignment& assignment, file::HessianWriter& writer,
                   file::Checkpoint& checkpoint, const ranks::StopPoint& stop, const ranks::Communicator& communicator,
                   cli::Progress& progress);

/// Largest absolute number among `count` finite ones, and whether there is one that is not finite. One pass over bits.
struct Magnitude {
  double largest = 0;
  bool finite = true;
};
Magnitude magnitude_of(const float* numbers, std::int64_t count);
Magnitude magnitude_of(const double* numbers, std::int64_t count);

/// What a run notes of each block before it is written: the checksum of its bytes, its largest absolute entry, and that
/// it is not to count as written (on_disk) where one is not finite; such rows are added to nonfinite_rows.
/// bytes: the rows of the block, each in the columns that the matrix has of it.
file::BlockRecord record_of(const Rows& rows, const matrix::MatrixShape& matrix, const char* bytes,
                            std::vector<std::int64_t>& nonfinite_rows);

}  // namespace hessian_mpi::run
