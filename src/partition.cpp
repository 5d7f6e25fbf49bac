#include "hessian_mpi/partition.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

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

BlockList SharedBlocks::of_rank(int rank) const {
  const auto r = static_cast<std::size_t>(rank);
  const auto begin = static_cast<std::ptrdiff_t>(r == 0 ? 0 : ends[r - 1]);
  return {blocks.begin() + begin, blocks.begin() + static_cast<std::ptrdiff_t>(ends[r])};
}

int SharedBlocks::owner(std::size_t position) const {
  return static_cast<int>(std::upper_bound(ends.begin(), ends.end(), position) - ends.begin());
}

SharedBlocks shared_evenly(BlockList blocks, int ranks) {
  const auto count = static_cast<std::int64_t>(blocks.size());
  SharedBlocks shared{std::move(blocks), {}};
  for (int rank = 0; rank < ranks; ++rank) {
    shared.ends.push_back(static_cast<std::size_t>(share(count, rank, ranks).end));
  }
  return shared;
}

SharedBlocks shared_by_cost(BlockList blocks, const std::vector<double>& costs, int ranks) {
  const double all = std::accumulate(costs.begin(), costs.end(), 0.0);
  SharedBlocks shared{std::move(blocks), {}};
  std::size_t position = 0;
  double before = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    // A block belongs to the rank in whose part of the cost its middle lies.
    const double end = rank + 1 == ranks ? 2 * all : all * (rank + 1) / ranks;
    while (position < costs.size() && before + costs[position] / 2 < end) before += costs[position++];
    shared.ends.push_back(position);
  }
  return shared;
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
