#include "hessian_mpi/partition.hpp"

#include <algorithm>

namespace hessian_mpi {
namespace {

constexpr std::int64_t target_block_bytes = 4 << 20;
constexpr std::int64_t target_block_count = 1024;

}  // namespace

BlockGrid::BlockGrid(std::int64_t rows, std::int64_t bytes_per_row)
    : rows_(rows),
      rows_per_block_(std::max<std::int64_t>(
          1, std::min((target_block_bytes + bytes_per_row - 1) / bytes_per_row, rows / target_block_count))) {}

Rows BlockGrid::block(std::int64_t b) const {
  return {b * rows_per_block_, std::min(rows_, (b + 1) * rows_per_block_)};
}

Blocks blocks_of_rank(const BlockGrid& grid, int rank, int ranks) {
  return {grid.count() * rank / ranks, grid.count() * (rank + 1) / ranks};
}

Rows rows_of(const BlockGrid& grid, const Blocks& blocks) {
  if (blocks.count() == 0) return {};
  return {grid.block(blocks.begin).begin, grid.block(blocks.end - 1).end};
}

int owner_of_block(const BlockGrid& grid, std::int64_t b, int ranks) {
  // The inverse of floor(count * rank / ranks): the last rank whose slice begins at or before b.
  return static_cast<int>(((b + 1) * ranks - 1) / grid.count());
}

}  // namespace hessian_mpi
