#include "hessian_mpi/matrix/partition.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::matrix {
namespace {

constexpr std::int64_t target_block_bytes = 4 << 20;
constexpr std::int64_t target_block_count = 1024;

std::int64_t height_of_blocks(std::int64_t rows, std::int64_t bytes_per_row) {
  const auto fitting = (target_block_bytes + bytes_per_row - 1) / bytes_per_row;
  return std::max<std::int64_t>(1, std::min(fitting, rows / target_block_count));
}

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
    : rows_(rows), part_(part), pieces_{{part, height_of_blocks(rows, bytes_per_row), 0}} {}

BlockGrid::BlockGrid(const std::vector<Rows>& pieces, const std::vector<std::int64_t>& bytes_per_row)
    : rows_(pieces.back().end), part_{0, rows_} {
  std::int64_t first = 0;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    pieces_.push_back({pieces[p], height_of_blocks(rows_, bytes_per_row[p]), first});
    first = blocks_of_piece(p).end;
  }
}

// A part file's blocks lie where those of the whole matrix do; those of a piece begin with it.
std::int64_t BlockGrid::origin(const Piece& piece) const {
  return part_.count() < rows_ ? 0 : piece.rows.begin;
}

std::int64_t BlockGrid::block_of(std::int64_t row) const {
  const auto& piece = pieces_[piece_of(row)];
  const auto at = origin(piece);
  return piece.first_block + (row - at) / piece.rows_per_block - (piece.rows.begin - at) / piece.rows_per_block;
}

Blocks BlockGrid::blocks_of_piece(std::size_t p) const {
  const auto& rows = pieces_[p].rows;
  const auto first = pieces_[p].first_block;
  if (rows.count() == 0) return {first, first};
  return {first, block_of(rows.end - 1) + 1};
}

std::size_t BlockGrid::piece_of(std::int64_t row) const {
  const auto after = std::upper_bound(pieces_.begin() + 1, pieces_.end(), row,
                                      [](std::int64_t i, const Piece& piece) { return i < piece.rows.begin; });
  return static_cast<std::size_t>(after - pieces_.begin() - 1);
}

std::int64_t BlockGrid::rows_per_block() const {
  std::int64_t most = 0;
  for (const auto& piece : pieces_) most = std::max(most, piece.rows_per_block);
  return most;
}

std::int64_t BlockGrid::count() const {
  return blocks_of_piece(pieces_.size() - 1).end;
}

Rows BlockGrid::block(std::int64_t b) const {
  const auto after = std::upper_bound(pieces_.begin() + 1, pieces_.end(), b,
                                      [](std::int64_t i, const Piece& piece) { return i < piece.first_block; });
  const auto& piece = *(after - 1);
  const auto height = piece.rows_per_block;
  const auto at = origin(piece);
  const auto begin = at + ((piece.rows.begin - at) / height + b - piece.first_block) * height;
  return {std::max(piece.rows.begin, begin), std::min(piece.rows.end, begin + height)};
}

Rows MatrixShape::columns_of(std::int64_t row) const {
  if (entries == Entries::diagonal) return {row, row + 1};
  return has_whole_rows() ? Rows{0, columns} : grid.piece(grid.piece_of(row));
}

std::string MatrixShape::describe_row(std::int64_t row, const ParameterIndex& index) const {
  if (entries != Entries::of_samples) return index.describe(row);
  return text("sample ", row / rows_of_sample, ", output ", row % rows_of_sample);
}

MatrixShape MatrixShape::part(const Rows& rows) const {
  MatrixShape some = *this;
  some.grid = BlockGrid(grid.rows(), bytes_of_row(), rows);
  return some;
}

std::int64_t MatrixShape::bytes_of_rows(const Rows& rows) const {
  if (rows.count() == 0) return 0;
  return rows.count() * columns_of(rows.begin).count() * static_cast<std::int64_t>(bytes_of(storage));
}

std::int64_t MatrixShape::bytes_of_largest_block() const {
  std::int64_t most = 0;
  for (std::size_t p = 0; p < grid.pieces(); ++p) {
    const auto begin = grid.piece(p).begin;
    most = std::max(most, bytes_of_rows({begin, begin + grid.rows_per_block(p)}));
  }
  return most;
}

std::int64_t MatrixShape::bytes() const {
  std::int64_t sum = 0;
  for (std::size_t p = 0; p < grid.pieces(); ++p) sum += bytes_of_rows(grid.piece(p));
  return sum;
}

std::int64_t MatrixShape::longest_row() const {
  std::int64_t longest = 0;
  for (std::size_t p = 0; p < grid.pieces(); ++p) longest = std::max(longest, columns_of(grid.piece(p).begin).count());
  return longest;
}

MatrixShape matrix_of(const ParameterIndex& index, Precision storage, Entries entries) {
  const auto n = index.size();
  const auto bytes = static_cast<std::int64_t>(bytes_of(storage));
  if (entries == Entries::all) return {BlockGrid(n, n * bytes), n, storage, entries};
  std::vector<Rows> pieces;
  std::vector<std::int64_t> bytes_per_row;
  for (const auto& entry : index.entries()) {
    if (entry.size == 0) continue;
    pieces.push_back({entry.offset, entry.offset + entry.size});
    bytes_per_row.push_back(entries == Entries::diagonal ? bytes : entry.size * bytes);
  }
  return {BlockGrid(pieces, bytes_per_row), n, storage, entries};
}

MatrixShape matrix_of_samples(const ParameterIndex& index, Precision storage, std::int64_t samples,
                              std::int64_t rows_of_sample) {
  const auto bytes_of_row = index.size() * static_cast<std::int64_t>(bytes_of(storage));
  return {BlockGrid(samples * rows_of_sample, bytes_of_row), index.size(), storage, Entries::of_samples,
          rows_of_sample};
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

}  // namespace hessian_mpi::matrix
