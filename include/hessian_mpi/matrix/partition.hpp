#pragma once
/// How rows are split: N rows -> blocks on a fixed grid -> the blocks that are wanted -> a contiguous share of them per
/// rank. Pure arithmetic.

#include <cstdint>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"

namespace hessian_mpi::matrix {

/// Blocks [begin, end), counted as Rows count rows.
struct Blocks {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
  friend bool operator==(const Blocks&, const Blocks&) = default;
};

/// Rows in blocks of equal height, the last one smaller. A block is what has a checksum and what a checkpoint marks.
/// The grid depends on the matrix alone, never on ranks or memory: any number of ranks can verify or go on with a file.
/// Where the matrix is cut into pieces, each piece has blocks of its own.
class BlockGrid {
 public:
  /// Blocks of about 4 MiB, but at least 1,024 of them where there are as many rows, so that many ranks find work.
  BlockGrid(std::int64_t rows, std::int64_t bytes_per_row);
  /// The same grid, of which a part file holds some rows, at least one: the first and the last block are cut off there.
  BlockGrid(std::int64_t rows, std::int64_t bytes_per_row, const Rows& part);
  /// Rows in pieces with no block across two of them. pieces: all rows, in order, none of them empty. bytes_per_row: of
  /// each piece.
  BlockGrid(const std::vector<Rows>& pieces, const std::vector<std::int64_t>& bytes_per_row);

  /// Rows of the whole matrix, and those that are meant.
  std::int64_t rows() const { return rows_; }
  const Rows& part() const { return part_; }
  /// Of the highest block.
  std::int64_t rows_per_block() const;
  /// Number of blocks.
  std::int64_t count() const;
  /// Rows of block b in [0, count()).
  Rows block(std::int64_t b) const;
  /// The block of a row of the part.
  std::int64_t block_of(std::int64_t row) const;
  /// The pieces, in order; one where the matrix is not cut.
  std::size_t pieces() const { return pieces_.size(); }
  const Rows& piece(std::size_t p) const { return pieces_[p].rows; }
  std::size_t piece_of(std::int64_t row) const;
  /// Blocks of a piece, all of the same height but for the last.
  std::int64_t rows_per_block(std::size_t p) const { return pieces_[p].rows_per_block; }
  Blocks blocks_of_piece(std::size_t p) const;

 private:
  struct Piece {
    Rows rows;
    std::int64_t rows_per_block;
    std::int64_t first_block;
  };
  std::int64_t origin(const Piece& piece) const;
  std::int64_t rows_;
  Rows part_;
  std::vector<Piece> pieces_;
};

/// The matrix of a file: the rows that are meant, N columns, the numbers on disk, and which of the entries are made. Of
/// diagonal blocks, and of a diagonal, each parameter tensor is a piece of the grid. Row i of a matrix with rows of
/// samples is number i % rows_of_sample of sample i / rows_of_sample.
struct MatrixShape {
  BlockGrid grid{0, 1};
  std::int64_t columns = 0;
  Precision storage = Precision::float32;
  Entries entries = Entries::all;
  std::int64_t rows_of_sample = 0;  ///< 0 where rows are parameters

  /// Whether rows have entries in all columns.
  bool has_whole_rows() const { return entries == Entries::all || entries == Entries::of_samples; }
  bool has_all_rows() const { return grid.part().count() == grid.rows(); }
  /// Row `row` in words: the element of a parameter, or sample and output.
  std::string describe_row(std::int64_t row, const ParameterIndex& index) const;
  /// The same matrix with other rows of it.
  MatrixShape part(const Rows& rows) const;

  /// The columns in which a row has entries.
  Rows columns_of(std::int64_t row) const;
  /// Bytes of some rows of one piece; and of the largest block.
  std::int64_t bytes_of_rows(const Rows& rows) const;
  std::int64_t bytes_of_largest_block() const;
  /// Bytes of a whole row, where all entries are made.
  std::int64_t bytes_of_row() const { return columns * static_cast<std::int64_t>(bytes_of(storage)); }
  std::int64_t bytes() const;
  /// Entries in the longest row.
  std::int64_t longest_row() const;
};

/// The whole matrix over these parameters.
MatrixShape matrix_of(const ParameterIndex& index, Precision storage, Entries entries);
/// The whole matrix with so many rows for each sample.
MatrixShape matrix_of_samples(const ParameterIndex& index, Precision storage, std::int64_t samples,
                              std::int64_t rows_of_sample);

/// Part k of the given number of parts of the whole grid, cut between blocks: the rows of one task of a job array.
Rows part_of_grid(const BlockGrid& grid, std::int64_t k, std::int64_t parts);

/// The rows of some blocks.
Rows rows_of(const BlockGrid& grid, const Blocks& blocks);

/// Share k of so many things in so many shares, which differ by one at most: from begin to end, counted as blocks are.
Blocks share(std::int64_t count, std::int64_t k, std::int64_t shares);

/// Adds rows that come after all runs to a list of runs of neighbours; none where there are none.
void append_run(const Rows& rows, std::vector<Rows>& runs);

/// Some blocks of a grid, in ascending order, not necessarily neighbours.
using BlockList = std::vector<std::int64_t>;

/// A rank's share of the blocks: contiguous in the list, in the order of ranks, their numbers differing by at most one;
/// none where there are more ranks than blocks.
BlockList share_of_rank(const BlockList& blocks, int rank, int ranks);

/// Blocks in ascending order, in contiguous shares, one for each rank in the order of ranks; some may be empty.
struct SharedBlocks {
  BlockList blocks;
  std::vector<std::size_t> ends;  ///< of the ranks' shares, as positions in the list

  BlockList of_rank(int rank) const;
  /// The rank whose share holds the block at this position of the list.
  int owner(std::size_t position) const;
};

/// In shares as share_of_rank() has them.
SharedBlocks shared_evenly(BlockList blocks, int ranks);
/// In shares of equal cost, as far as whole blocks allow it. costs: of each of the blocks, positive.
SharedBlocks shared_by_cost(BlockList blocks, const std::vector<double>& costs, int ranks);

/// The blocks from this position of the list on, at most so many, that are neighbours: one piece of the matrix. None at
/// the list's end.
Blocks neighbours_from(const BlockList& blocks, std::size_t position, std::int64_t most);

/// How many rows the blocks have.
std::int64_t rows_in(const BlockGrid& grid, const BlockList& blocks);

}  // namespace hessian_mpi::matrix
