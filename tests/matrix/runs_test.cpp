#include "hessian_mpi/matrix/runs.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace hessian_mpi::matrix {
namespace {

using Runs = std::vector<Rows>;

TEST(Runs, OfBoth) {
  EXPECT_EQ(common({{0, 5}, {8, 12}}, {{3, 9}, {11, 20}}), (Runs{{3, 5}, {8, 9}, {11, 12}}));
  EXPECT_EQ(common({{0, 5}}, {{5, 9}}), Runs());
}

TEST(Runs, OfEitherHaveEachRowOnce) {
  EXPECT_EQ(united({{8, 12}, {0, 5}, {3, 6}, {12, 13}}), (Runs{{0, 6}, {8, 13}}));
  EXPECT_EQ(united({{0, 2}}, {{1, 1}, {4, 5}}), (Runs{{0, 2}, {4, 5}}));
}

TEST(Runs, WithoutOthers) {
  EXPECT_EQ(without({{0, 10}, {20, 30}}, {{2, 3}, {9, 22}}), (Runs{{0, 2}, {3, 9}, {22, 30}}));
  EXPECT_EQ(without({{2, 3}}, {{0, 9}}), Runs());
}

TEST(Runs, ContainTheirRows) {
  const Runs runs{{2, 4}, {7, 8}};
  for (const auto row : {2, 3, 7}) EXPECT_TRUE(contains(runs, row)) << row;
  for (const auto row : {1, 4, 6, 8}) EXPECT_FALSE(contains(runs, row)) << row;
}

TEST(Runs, GiveTheirRowsPlaces) {
  const Runs runs{{3, 6}, {19, 24}, {33, 34}};
  EXPECT_EQ(count_of(runs), 9);
  EXPECT_EQ(place_of(3, runs), 0);
  EXPECT_EQ(place_of(20, runs), 4);
  EXPECT_EQ(place_of(33, runs), 8);
}

}  // namespace
}  // namespace hessian_mpi::matrix
