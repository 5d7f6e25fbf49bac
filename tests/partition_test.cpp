#include "hessian_mpi/partition.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace hessian_mpi {
namespace {

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

TEST(Slices, CoverEveryBlockOnceInTheOrderOfRanks) {
  for (const auto& grid : grids()) {
    for (const int ranks : rank_counts()) {
      std::int64_t next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto blocks = blocks_of_rank(grid, rank, ranks);
        ASSERT_EQ(blocks.begin, next) << "rank " << rank << " of " << ranks << ", " << grid.count() << " blocks";
        ASSERT_GE(blocks.end, blocks.begin);
        next = blocks.end;
      }
      ASSERT_EQ(next, grid.count()) << ranks << " ranks";
    }
  }
}

TEST(Slices, DifferByOneBlockAtMost) {
  for (const auto& grid : grids()) {
    for (const int ranks : rank_counts()) {
      std::int64_t least = grid.count();
      std::int64_t most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto count = blocks_of_rank(grid, rank, ranks).count();
        least = std::min(least, count);
        most = std::max(most, count);
      }
      ASSERT_LE(most - least, 1) << ranks << " ranks, " << grid.count() << " blocks";
    }
  }
}

TEST(Slices, ArePlacedOnTheSameGridForAnyNumberOfRanks) {
  const BlockGrid grid(5000, 5000 * 8);
  for (const int ranks : rank_counts()) {
    std::int64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const auto rows = rows_of(grid, blocks_of_rank(grid, rank, ranks));
      if (rows.count() == 0) continue;
      EXPECT_EQ(rows.begin, next);
      EXPECT_EQ(rows.begin % grid.rows_per_block(), 0) << "a slice begins inside a block";
      next = rows.end;
    }
    EXPECT_EQ(next, grid.rows()) << ranks << " ranks";
  }
}

TEST(Slices, AreEmptyWhereRanksOutnumberBlocks) {
  const BlockGrid grid(3, 3 * 4);
  int with_rows = 0;
  for (int rank = 0; rank < 64; ++rank) {
    const auto rows = rows_of(grid, blocks_of_rank(grid, rank, 64));
    EXPECT_TRUE(rows.count() == 0 || rows.count() == 1);
    with_rows += rows.count() == 0 ? 0 : 1;
  }
  EXPECT_EQ(with_rows, 3);
}

TEST(Slices, AreOfTheRankThatOwnsTheirBlocks) {
  for (const auto& grid : grids()) {
    for (const int ranks : rank_counts()) {
      for (int rank = 0; rank < ranks; ++rank) {
        const auto blocks = blocks_of_rank(grid, rank, ranks);
        if (blocks.count() == 0) continue;
        // The first and the last: between them, ownership only grows.
        ASSERT_EQ(owner_of_block(grid, blocks.begin, ranks), rank) << "block " << blocks.begin << ", " << ranks;
        ASSERT_EQ(owner_of_block(grid, blocks.end - 1, ranks), rank) << "block " << blocks.end - 1 << ", " << ranks;
      }
    }
  }
}

TEST(Slices, OfNoBlocksHaveNoRows) {
  const BlockGrid grid(10, 40);
  EXPECT_EQ(rows_of(grid, {}).count(), 0);
  EXPECT_EQ(rows_of(grid, {4, 4}).count(), 0);
}

}  // namespace
}  // namespace hessian_mpi
