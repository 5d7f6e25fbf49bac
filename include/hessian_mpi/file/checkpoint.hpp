#pragma once
/// Which blocks are on the disk for certain: what a job that ended early need not compute again.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/file/block_table.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::file {

/// The records of all blocks of a file, on every rank, and the marks in the file, which root writes. The order is:
/// rows, flushed to the disk on every node, then the mark, flushed as well.
class Checkpoint {
 public:
  /// Collective over the communicator, which must outlive this object. records: on root, one per block of the grid, or
  /// none for a new file. unfinished: on root, where it is to take the place of a file that is there, as the first
  /// block is marked.
  Checkpoint(std::filesystem::path path, const matrix::BlockGrid& grid, const std::vector<BlockRecord>& records,
             const ranks::Communicator& communicator, std::unique_ptr<NewHessianFile> unfinished = nullptr);

  /// Not collective. Notes a block of this rank that was written, to be marked by the next take().
  void add(std::int64_t block, const BlockRecord& record);

  /// Not collective; ranks may differ. True when the last checkpoint is so long ago that another one costs less than
  /// 2 % of the time.
  bool is_due() const;

  /// Collective. Brings all written rows to the disk, then marks the blocks that were added on any rank.
  void take(HessianWriter& writer);

  /// Collective. Takes back the marks of blocks, the same on all ranks, whose rows are not what was written.
  void forget(const matrix::BlockList& blocks);

  /// Collective. Throws RunError where the output's name no longer leads to the file that this run has begun or gone on
  /// with: to be asked before anything else is written by name.
  void expect_same_file() const;

  /// The same on all ranks. Where the file lies now.
  const std::filesystem::path& file() const { return is_published() ? path_ : unfinished_path_; }
  bool is_published() const { return unfinished_path_.empty(); }
  /// Collective. Has it take the place of the file that is there, though no block may be marked yet.
  void publish();

  /// What the last take() took, in seconds.
  double seconds() const { return cost_.count(); }
  /// The same on all ranks, as of the last take().
  const std::vector<BlockRecord>& records() const { return records_; }
  /// Blocks not on the disk, in order.
  matrix::BlockList missing() const;

 private:
  using Clock = std::chrono::steady_clock;
  // Collective. Enters into the records what every rank hands in; returns which blocks.
  matrix::BlockList enter(const std::vector<std::uint64_t>& numbers);
  void mark(const matrix::BlockList& blocks);

  std::filesystem::path path_;
  std::unique_ptr<NewHessianFile> unfinished_;  // on root
  std::filesystem::path unfinished_path_;       // empty once it is published
  std::string id_;                              // of the file, on root
  std::vector<BlockRecord> records_;
  matrix::BlockList added_;
  std::vector<BlockRecord> records_of_added_;
  std::optional<BlockMarks> marks_;  // on root
  const ranks::Communicator& communicator_;
  std::chrono::duration<double> cost_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace hessian_mpi::file
