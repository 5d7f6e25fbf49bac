#include "hessian_mpi/solvers/low_rank.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "hessian_mpi/solvers/stored_operator.hpp"
#include "known_matrix.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr std::int64_t n = 90;
constexpr std::uint64_t plenty = 1 << 26;

// The sum of values[k] times v v^T of a discrete sine, which are orthonormal.
std::vector<double> of_eigenvalues(const std::vector<double>& values) {
  std::vector<double> matrix(static_cast<std::size_t>(n * n));
  for (std::size_t k = 0; k < values.size(); ++k) {
    const auto at = [&](std::int64_t i) {
      return std::sqrt(2.0 / (n + 1)) *
             std::sin(std::numbers::pi * static_cast<double>((i + 1)) * static_cast<double>(k + 1) / (n + 1));
    };
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) matrix[static_cast<std::size_t>(i * n + j)] += values[k] * at(i) * at(j);
    }
  }
  return matrix;
}

LowRank found_in(const std::vector<double>& numbers, const LowRankOptions& options, std::uint64_t memory = plenty) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, n, numbers);
  StoredOperator matrix(file.path(), file.matrix, memory, world);
  return low_rank(matrix, options);
}

LowRankOptions blocks_of(std::int64_t at_once) {
  return {1e-6, at_once, n / 2, 0};
}

TEST(LowRank, HasAllItsEigenvaluesInFewPasses) {
  const std::vector<double> values{-3, -0.5, -1e-3, 0.02, 0.7, 0.7, 5, 11};
  for (const std::uint64_t memory : {plenty, std::uint64_t{1}}) {
    const auto found = found_in(of_eigenvalues(values), blocks_of(16), memory);
    ASSERT_TRUE(found.found);
    ASSERT_GE(found.values.size(), values.size());
    EXPECT_LT(found.error_bound, 1e-6 * found.norm);
    std::vector<double> beyond;
    for (const double value : found.values) {
      if (std::abs(value) > found.error_bound) beyond.push_back(value);
    }
    ASSERT_EQ(beyond.size(), values.size());
    for (std::size_t k = 0; k < values.size(); ++k) EXPECT_NEAR(beyond[k], values[k], 1e-12);
    EXPECT_LE(found.passes, 3);  // the norm, the range, the projection
    EXPECT_LT(found.trace_error, 1e-12);
    EXPECT_LT(found.orthogonality_error, 1e-13);
  }
}

// A block of vectors finds an eigenvalue as often as it has vectors; another start finds the rest.
TEST(LowRank, HasEigenvaluesMoreOftenThanABlockHasVectors) {
  const auto found = found_in(of_eigenvalues(std::vector<double>(10, 2.0)), blocks_of(4));
  ASSERT_TRUE(found.found);
  EXPECT_EQ(std::count_if(found.values.begin(), found.values.end(), [](double x) { return std::abs(x - 2) < 1e-12; }),
            10);
}

TEST(LowRank, IsNotFoundInAMatrixOfFullRank) {
  const auto found = found_in(second_differences(n), blocks_of(16));
  EXPECT_FALSE(found.found);
  EXPECT_LE(found.vectors, n / 2);
  EXPECT_GT(found.error_bound, 0.1 * found.norm);
}

TEST(LowRank, IsNotFoundWhereTheBoundIsNot) {
  std::vector<double> values{4, 3, 2, 1};
  for (int k = 0; k < 60; ++k) values.push_back(1e-4);  // 7.7e-4 of a norm of 5.5
  auto options = blocks_of(8);
  EXPECT_FALSE(found_in(of_eigenvalues(values), options).found);
  options.tolerance = 1e-3;
  const auto found = found_in(of_eigenvalues(values), options);
  ASSERT_TRUE(found.found);
  EXPECT_GE(found.error_bound, std::sqrt(60 - static_cast<double>(found.vectors - 4)) * 1e-4 * 0.99);
}

TEST(LowRank, OfZeroIsZero) {
  const auto found = found_in(std::vector<double>(static_cast<std::size_t>(n * n)), blocks_of(16));
  EXPECT_TRUE(found.found);
  EXPECT_TRUE(found.values.empty());
}

}  // namespace
}  // namespace hessian_mpi::solvers
