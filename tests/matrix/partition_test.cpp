#include "hessian_mpi/matrix/partition.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace hessian_mpi::matrix {
namespace {

BlockList every_block(const BlockGrid& grid) {
  BlockList blocks(static_cast<std::size_t>(grid.count()));
  std::iota(blocks.begin(), blocks.end(), 0);
  return blocks;
}

// The rank's share of all blocks, which is one piece of them.
Blocks share_of_all(const BlockGrid& grid, int rank, int ranks) {
  const auto share = share_of_rank(every_block(grid), rank, ranks);
  if (share.empty()) return {};
  EXPECT_EQ(share.back() - share.front() + 1, static_cast<std::int64_t>(share.size()));
  return {share.front(), share.back() + 1};
}

constexpr std::int64_t mebibyte = 1 << 20;

// Matrices of every kind: none to few rows, around 1024, the embedded example, more than 2^31 numbers; float32 and
// float64.
std::vector<BlockGrid> grids() {
  std::vector<BlockGrid> result;
  for (const std::int64_t n :
       {1, 2, 3, 7, 63, 64, 65, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 5000, 23365, 1000003}) {
    for (const std::int64_t bytes : {4, 8}) result.emplace_back(n, n * bytes);
  }
  result.emplace_back(10'000'000, 4 * 3);  // rows shorter than columns are many: a selection of parameters, say
  result.emplace_back(5, 3'000'000'000);
  return result;
}

std::vector<int> rank_counts() {
  std::vector<int> counts(64);
  for (int i = 0; i < 64; ++i) counts[static_cast<std::size_t>(i)] = i + 1;
  for (const int more : {100, 1000, 1023, 1024, 1025, 4096, 100000}) counts.push_back(more);
  return counts;
}

TEST(BlockGrid, CoversEveryRowOnceInOrder) {
  for (const auto& grid : grids()) {
    std::int64_t next = 0;
    for (std::int64_t b = 0; b < grid.count(); ++b) {
      EXPECT_EQ(grid.block(b).begin, next);
      EXPECT_GT(grid.block(b).end, next);
      next = grid.block(b).end;
    }
    EXPECT_EQ(next, grid.rows());
  }
}

TEST(BlockGrid, HasBlocksOfEqualHeightButForTheLast) {
  for (const auto& grid : grids()) {
    for (std::int64_t b = 0; b + 1 < grid.count(); ++b) EXPECT_EQ(grid.block(b).count(), grid.rows_per_block());
    EXPECT_LE(grid.block(grid.count() - 1).count(), grid.rows_per_block());
  }
}

TEST(BlockGrid, HasABlockForEachOfAtLeast1024Ranks) {
  for (const auto& grid : grids()) {
    EXPECT_GE(grid.count(), std::min<std::int64_t>(grid.rows(), 1024)) << grid.rows() << " rows";
  }
}

TEST(BlockGrid, OfALargeMatrixHasBlocksOfFourMebibytes) {
  const std::int64_t n = 23365;  // 93,460 bytes a row; 1024 blocks of 22 rows would be half of that
  EXPECT_EQ(BlockGrid(n, n * 4).rows_per_block(), 22);
  const std::int64_t large = 200'000;
  const std::int64_t bytes = BlockGrid(large, large * 4).rows_per_block() * large * 4;
  EXPECT_GE(bytes, 4 * mebibyte);
  EXPECT_LT(bytes, 4 * mebibyte + large * 4);
}

TEST(BlockGrid, HasBlocksOfOneRowWhereARowIsLongerThanABlock) {
  EXPECT_EQ(BlockGrid(2'000'000, 8'000'000).rows_per_block(), 1);
}

const std::vector<std::int64_t> list_lengths{1, 2, 3, 63, 64, 1000, 1063, 1024};

BlockList list_of(std::int64_t count) {
  BlockList blocks;
  for (std::int64_t k = 0; k < count; ++k) blocks.push_back(3 * k + 5);
  return blocks;
}

TEST(Shares, CoverEveryBlockOnceInTheOrderOfRanksAndDifferByOneAtMost) {
  for (const auto count : list_lengths) {
    const auto blocks = list_of(count);
    for (const int ranks : rank_counts()) {
      BlockList joined;
      std::size_t least = blocks.size();
      std::size_t most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto share = share_of_rank(blocks, rank, ranks);
        joined.insert(joined.end(), share.begin(), share.end());
        least = std::min(least, share.size());
        most = std::max(most, share.size());
      }
      ASSERT_EQ(joined, blocks) << ranks << " ranks";
      ASSERT_LE(most - least, 1U) << ranks << " ranks, " << count << " blocks";
    }
  }
}

TEST(Shares, OfAllBlocksArePlacedOnTheSameGridForAnyNumberOfRanks) {
  const BlockGrid grid(5000, 5000 * 8);
  for (const int ranks : rank_counts()) {
    std::int64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const auto rows = rows_of(grid, share_of_all(grid, rank, ranks));
      if (rows.count() == 0) continue;
      EXPECT_EQ(rows.begin, next);
      EXPECT_EQ(rows.begin % grid.rows_per_block(), 0) << "a slice begins inside a block";
      next = rows.end;
    }
    EXPECT_EQ(next, grid.rows()) << ranks << " ranks";
  }
}

TEST(Shares, AreEmptyWhereRanksOutnumberBlocks) {
  std::size_t with_blocks = 0;
  for (int rank = 0; rank < 64; ++rank) with_blocks += share_of_rank({4, 5, 9}, rank, 64).size();
  EXPECT_EQ(with_blocks, 3U);
  EXPECT_TRUE(share_of_rank({}, 0, 4).empty());
}

TEST(Shares, AreOfTheRankThatOwnsTheirPositions) {
  for (const auto count : list_lengths) {
    for (const int ranks : rank_counts()) {
      const auto shared = shared_evenly(list_of(count), ranks);
      std::size_t position = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        EXPECT_EQ(shared.of_rank(rank), share_of_rank(shared.blocks, rank, ranks));
        for (std::size_t k = 0; k < shared.of_rank(rank).size(); ++k) {
          ASSERT_EQ(shared.owner(position++), rank) << count << " blocks, " << ranks << " ranks";
        }
      }
    }
  }
}

TEST(Shares, ByCostHaveAllBlocksOnceAndNoMoreThanOneBlockTooMuch) {
  for (const auto count : list_lengths) {
    std::vector<double> costs;
    for (std::int64_t k = 0; k < count; ++k) costs.push_back(k < count / 3 ? 10 : 1 + static_cast<double>(k % 2));
    const double all = std::accumulate(costs.begin(), costs.end(), 0.0);
    for (const int ranks : rank_counts()) {
      const auto shared = shared_by_cost(list_of(count), costs, ranks);
      BlockList joined;
      for (int rank = 0; rank < ranks; ++rank) {
        double cost = 0;
        const auto begin = joined.size();
        const auto share = shared.of_rank(rank);
        joined.insert(joined.end(), share.begin(), share.end());
        for (auto k = begin; k < joined.size(); ++k) cost += costs[k];
        ASSERT_LE(cost, all / ranks + 10) << count << " blocks, rank " << rank << " of " << ranks;
      }
      ASSERT_EQ(joined, shared.blocks);
    }
  }
  EXPECT_EQ(shared_by_cost({1, 2, 3, 4}, {3, 1, 1, 1}, 2).of_rank(0), BlockList{1});
  EXPECT_TRUE(shared_by_cost({}, {}, 3).of_rank(2).empty());
}

TEST(Neighbours, AreOnePieceUpToAGap) {
  const BlockList blocks{2, 3, 4, 7, 8, 20};
  EXPECT_EQ(neighbours_from(blocks, 0, 10), (Blocks{2, 5}));
  EXPECT_EQ(neighbours_from(blocks, 0, 2), (Blocks{2, 4}));
  EXPECT_EQ(neighbours_from(blocks, 2, 10), (Blocks{4, 5}));
  EXPECT_EQ(neighbours_from(blocks, 3, 10), (Blocks{7, 9}));
  EXPECT_EQ(neighbours_from(blocks, 5, 10), (Blocks{20, 21}));
  EXPECT_EQ(neighbours_from(blocks, 6, 10).count(), 0);
  EXPECT_EQ(neighbours_from(blocks, 0, 0).count(), 0);
}

TEST(RowsOf, NoBlocksAreNone) {
  const BlockGrid grid(10, 40);
  EXPECT_EQ(rows_of(grid, {}).count(), 0);
  EXPECT_EQ(rows_of(grid, {4, 4}).count(), 0);
}

// --- parts of a matrix

TEST(PartGrid, HasTheWholeGridsBlocksCutOffAtItsEnds) {
  const BlockGrid whole(2501, 2501 * 4);  // blocks of 2 rows
  const BlockGrid part(2501, 2501 * 4, {5, 12});
  std::vector<Rows> blocks;
  for (std::int64_t b = 0; b < part.count(); ++b) blocks.push_back(part.block(b));
  EXPECT_EQ(blocks, (std::vector<Rows>{{5, 6}, {6, 8}, {8, 10}, {10, 12}}));
  EXPECT_EQ(part.rows(), 2501);
  EXPECT_EQ(part.part(), (Rows{5, 12}));
  EXPECT_EQ(whole.part(), (Rows{0, 2501}));
  const BlockGrid last(2501, 2501 * 4, {2499, 2501});
  EXPECT_EQ(last.block(last.count() - 1), (Rows{2500, 2501}));
  EXPECT_EQ(rows_in(part, {0, 2}), 3);
}

TEST(PartGrid, OfOneBlockLiesInsideIt) {
  const BlockGrid part(23365, 23365 * 4, {23, 30});
  EXPECT_EQ(part.count(), 1);
  EXPECT_EQ(part.block(0), (Rows{23, 30}));
}

TEST(Parts, CoverEveryRowOnceAndAreCutBetweenBlocks) {
  for (const auto& grid : grids()) {
    for (const std::int64_t parts : {1, 2, 7, 16, 1000}) {
      std::int64_t next = 0;
      for (std::int64_t k = 0; k < parts; ++k) {
        const auto rows = part_of_grid(grid, k, parts);
        if (rows.count() == 0) continue;
        ASSERT_EQ(rows.begin, next);
        ASSERT_EQ(rows.begin % grid.rows_per_block(), 0);
        next = rows.end;
      }
      ASSERT_EQ(next, grid.rows());
    }
  }
}

ParameterIndex index_of(const std::vector<std::int64_t>& sizes) {
  ParameterIndex index;
  for (const auto size : sizes) index.append(std::to_string(index.entries().size()), {size});
  return index;
}

TEST(MatrixOfDiagonalBlocks, HasAPieceForEachTensorThatHasElements) {
  const auto index = index_of({3000, 0, 1, 70'000});
  for (const auto entries : {Entries::diagonal_blocks, Entries::diagonal}) {
    const auto matrix = matrix_of(index, Precision::float32, entries);
    const auto& grid = matrix.grid;
    ASSERT_EQ(grid.pieces(), 3U);
    std::int64_t next = 0;
    for (std::int64_t b = 0; b < grid.count(); ++b) {
      const auto rows = grid.block(b);
      ASSERT_EQ(rows.begin, next);
      ASSERT_GT(rows.end, next);
      EXPECT_EQ(grid.piece_of(rows.begin), grid.piece_of(rows.end - 1)) << "no block across two tensors";
      EXPECT_EQ(grid.block_of(rows.begin), b);
      EXPECT_EQ(grid.block_of(rows.end - 1), b);
      const auto blocks = grid.blocks_of_piece(grid.piece_of(rows.begin));
      EXPECT_TRUE(blocks.begin <= b && b < blocks.end);
      next = rows.end;
    }
    EXPECT_EQ(next, 73'001);
    EXPECT_GE(grid.count(), 1024) << "enough for many ranks";
  }
}

TEST(MatrixOfDiagonalBlocks, KnowsColumnsAndBytes) {
  const auto index = index_of({3000, 0, 1, 70'000});
  const auto blocks = matrix_of(index, Precision::float32, Entries::diagonal_blocks);
  EXPECT_EQ(blocks.columns_of(2999), (Rows{0, 3000}));
  EXPECT_EQ(blocks.columns_of(3000), (Rows{3000, 3001}));
  EXPECT_EQ(blocks.columns_of(3001), (Rows{3001, 73'001}));
  EXPECT_EQ(blocks.bytes(), 4 * (std::int64_t{3000} * 3000 + 1 + std::int64_t{70'000} * 70'000));
  EXPECT_EQ(blocks.longest_row(), 70'000);
  EXPECT_EQ(blocks.bytes_of_rows({3001, 3003}), 2 * 70'000 * 4);
  const auto diagonal = matrix_of(index, Precision::float64, Entries::diagonal);
  EXPECT_EQ(diagonal.columns_of(17), (Rows{17, 18}));
  EXPECT_EQ(diagonal.bytes(), 8 * 73'001);
  EXPECT_EQ(diagonal.longest_row(), 1);
  const auto whole = matrix_of(index, Precision::float64, Entries::all);
  EXPECT_EQ(whole.columns_of(17), (Rows{0, 73'001}));
  EXPECT_EQ(whole.bytes(), std::int64_t{8} * 73'001 * 73'001);
}

TEST(MatrixOfSamples, HasRowsForEachSample) {
  const auto index = index_of({3000, 5});
  const auto whole = matrix_of_samples(index, Precision::float32, 7, 4);
  EXPECT_EQ(whole.grid.rows(), 28);
  EXPECT_TRUE(whole.has_all_rows() && whole.has_whole_rows());
  EXPECT_EQ(whole.columns_of(27), (Rows{0, 3005}));
  EXPECT_EQ(whole.bytes(), 4 * 28 * 3005);
  EXPECT_EQ(whole.describe_row(13, index), "sample 3, output 1");
  EXPECT_EQ(matrix_of(index, Precision::float32, Entries::all).describe_row(13, index), index.describe(13));
  const auto part = whole.part({10, 20});
  EXPECT_EQ(part.grid.rows(), 28);
  EXPECT_EQ(part.grid.part(), (Rows{10, 20}));
  EXPECT_EQ(part.rows_of_sample, 4);
  EXPECT_FALSE(part.has_all_rows());
}

TEST(MatrixShape, CountsBytesBeyond32Bits) {
  const auto bytes = [](std::int64_t n, Precision storage) {
    return MatrixShape{BlockGrid(n, n * static_cast<std::int64_t>(bytes_of(storage))), n, storage}.bytes();
  };
  EXPECT_EQ(bytes(23365, Precision::float32), 2'183'692'900);
  EXPECT_EQ(bytes(23365, Precision::float64), 4'367'385'800);
  EXPECT_EQ(bytes(1, Precision::float32), 4);
  EXPECT_EQ(bytes(10'000'000, Precision::float32), 400'000'000'000'000);
  EXPECT_EQ((MatrixShape{BlockGrid(1000, 4000, {10, 20}), 1000, Precision::float32}.bytes()), 40'000);
}

}  // namespace
}  // namespace hessian_mpi::matrix
