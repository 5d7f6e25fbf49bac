#pragma once
/// How rows are split: N rows -> blocks on a fixed grid -> a contiguous slice of blocks per rank. Pure arithmetic.

#include <cstdint>

#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

/// Rows in blocks of equal height, the last one smaller. A block is what has a checksum and what a checkpoint marks.
/// The grid depends on the matrix alone, never on ranks or memory: any number of ranks can verify or go on with a file.
class BlockGrid {
 public:
  /// Blocks of about 4 MiB, but at least 1,024 of them where there are as many rows, so that many ranks find work.
  BlockGrid(std::int64_t rows, std::int64_t bytes_per_row);

  std::int64_t rows() const { return rows_; }
  std::int64_t rows_per_block() const { return rows_per_block_; }
  /// Number of blocks.
  std::int64_t count() const { return (rows_ + rows_per_block_ - 1) / rows_per_block_; }
  /// Rows of block b in [0, count()).
  Rows block(std::int64_t b) const;

 private:
  std::int64_t rows_;
  std::int64_t rows_per_block_;
};

/// Blocks [begin, end), counted as Rows count rows.
struct Blocks {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
  friend bool operator==(const Blocks&, const Blocks&) = default;
};

/// The blocks of a rank: contiguous, in the order of ranks, their numbers differing by at most one; none where there
/// are more ranks than blocks.
Blocks blocks_of_rank(const BlockGrid& grid, int rank, int ranks);

/// The rows of some blocks.
Rows rows_of(const BlockGrid& grid, const Blocks& blocks);

/// The rank that owns block b.
int owner_of_block(const BlockGrid& grid, std::int64_t b, int ranks);

}  // namespace hessian_mpi
