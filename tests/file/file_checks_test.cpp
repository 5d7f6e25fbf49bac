#include "hessian_mpi/file/file_checks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "matrix_file.hpp"

namespace hessian_mpi::file {
namespace {

TEST(VerifyBlocks, FindsWhatIsNotWhatWasWritten) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, 60, symmetric_numbers(60));
  const auto check = [&](Verify which) {
    return verify_blocks(file.path(), file.matrix, file.records, {}, which, world);
  };
  EXPECT_EQ(check(Verify::all).checked, file.matrix.grid.count());
  EXPECT_TRUE(check(Verify::all).damaged.empty());
  EXPECT_TRUE(check(Verify::sample).damaged.empty());
  file.damage(41, 7, 3.0);
  EXPECT_EQ(check(Verify::all).damaged, std::vector<std::int64_t>{41 / file.matrix.grid.rows_per_block()});
  EXPECT_EQ(check(Verify::none).checked, 0);
}

TEST(VerifyBlocks, PassesOverBlocksThatAreNotOnTheDisk) {
  const auto world = ranks::Communicator::world();
  MatrixFile file(world, 60, symmetric_numbers(60));
  file.damage(41, 7, 3.0);
  file.records[41].on_disk = false;
  const auto check = verify_blocks(file.path(), file.matrix, file.records,
                                   {matrix::shared_evenly({0, 1, 2}, world.size())}, Verify::all, world);
  EXPECT_EQ(check.checked, 59);
  EXPECT_TRUE(check.damaged.empty());
}

TEST(VerifyBlocks, ASampleIsAPartOfTheBlocks) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 300;
  const MatrixFile file(world, n, symmetric_numbers(n));
  const auto sample = verify_blocks(file.path(), file.matrix, file.records, {}, Verify::sample, world);
  EXPECT_GT(sample.checked, 0);
  EXPECT_LT(sample.checked, file.matrix.grid.count());
}

TEST(SymmetryError, IsZeroForASymmetricMatrixAndTheDifferenceForAnother) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, 60, symmetric_numbers(60));
  EXPECT_EQ(symmetry_error(file.path(), {2, 3, 17, 50}, 1.0, world), 0);
  file.damage(3, 50, std::cos(53.0) + 0.5);
  EXPECT_NEAR(symmetry_error(file.path(), {2, 3, 17, 50}, 2.0, world), 0.25, 1e-12);
  EXPECT_NEAR(symmetry_error(file.path(), {3, 50}, 2.0), 0.25, 1e-12);
  EXPECT_EQ(symmetry_error(file.path(), {2, 3, 17}, 1.0, world), 0);
  EXPECT_EQ(symmetry_error(file.path(), {3}, 1.0, world), 0);
}

TEST(SampleForSymmetry, HasRowsOfEveryParameterOfThePart) {
  matrix::ParameterIndex index;
  index.append("weight", {1000});
  index.append("bias", {3});
  index.append("nothing", {0});
  index.append("scale", {});
  const auto rows = sample_for_symmetry(index, {0, 1004});
  EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](auto row) { return row < 1000; }), 21);
  EXPECT_EQ((std::vector<std::int64_t>(rows.end() - 4, rows.end())),
            (std::vector<std::int64_t>{1000, 1001, 1002, 1003}));
  EXPECT_EQ(sample_for_symmetry(index, {990, 1001}).size(), 11U);
  EXPECT_EQ(sample_for_symmetry(index, {1003, 1004}), (std::vector<std::int64_t>{1003}));
}

TEST(SampleRows, AreDifferentRowsInOrder) {
  const auto rows = sample_rows({0, 1000}, 20);
  EXPECT_EQ(rows.size(), 20U);
  EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
  EXPECT_EQ(std::set<std::int64_t>(rows.begin(), rows.end()).size(), 20U);
  EXPECT_EQ(sample_rows({0, 3}, 20), (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(sample_rows({7, 9}, 20), (std::vector<std::int64_t>{7, 8}));
}

}  // namespace
}  // namespace hessian_mpi::file
