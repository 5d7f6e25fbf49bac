#include "hessian_mpi/partition.hpp"

#include <algorithm>

namespace hessian_mpi {
namespace {

constexpr std::int64_t target_block_bytes = 4 << 20;
constexpr std::int64_t target_block_count = 1024;

}  // namespace

Blocks share(std::int64_t count, std::int64_t k, std::int64_t shares) {
  return {count * k / shares, count * (k + 1) / shares};
}

void append_run(const Rows& rows, std::vector<Rows>& runs) {
  if (rows.count() <= 0) return;
  if (!runs.empty() && runs.back().end == rows.begin) {
    runs.back().end = rows.end;
  } else {
    runs.push_back(rows);
  }
}

BlockGrid::BlockGrid(std::int64_t rows, std::int64_t bytes_per_row) : BlockGrid(rows, bytes_per_row, {0, rows}) {}

BlockGrid::BlockGrid(std::int64_t rows, std::int64_t bytes_per_row, const Rows& part)
    : rows_(rows),
      rows_per_block_(std::max<std::int64_t>(
          1, std::min((target_block_bytes + bytes_per_row - 1) / bytes_per_row, rows / target_block_count))),
      part_(part) {}

std::int64_t BlockGrid::count() const {
  return (part_.end + rows_per_block_ - 1) / rows_per_block_ - part_.begin / rows_per_block_;
}

Rows BlockGrid::block(std::int64_t b) const {
  const auto of_whole = part_.begin / rows_per_block_ + b;
  return {std::max(part_.begin, of_whole * rows_per_block_), std::min(part_.end, (of_whole + 1) * rows_per_block_)};
}

Rows part_of_grid(const BlockGrid& grid, std::int64_t k, std::int64_t parts) {
  return rows_of(grid, share(grid.count(), k, parts));
}

Rows rows_of(const BlockGrid& grid, const Blocks& blocks) {
  if (blocks.count() == 0) return {};
  return {grid.block(blocks.begin).begin, grid.block(blocks.end - 1).end};
}

BlockList share_of_rank(const BlockList& blocks, int rank, int ranks) {
  const auto own = share(static_cast<std::int64_t>(blocks.size()), rank, ranks);
  return {blocks.begin() + own.begin, blocks.begin() + own.end};
}

int owner_of(std::int64_t position, std::int64_t count, int ranks) {
  // The inverse of floor(count * rank / ranks): the last rank whose share begins at or before the position.
  return static_cast<int>(((position + 1) * ranks - 1) / count);
}

Blocks neighbours_from(const BlockList& blocks, std::size_t position, std::int64_t most) {
  if (position >= blocks.size()) return {};
  Blocks found{blocks[position], blocks[position]};
  while (position < blocks.size() && blocks[position] == found.end && found.count() < most) {
    ++position;
    ++found.end;
  }
  return found;
}

std::int64_t rows_in(const BlockGrid& grid, const BlockList& blocks) {
  std::int64_t rows = 0;
  for (const auto b : blocks) rows += grid.block(b).count();
  return rows;
}

}  // namespace hessian_mpi
