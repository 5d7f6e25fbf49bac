#include "hessian_mpi/solvers/trace_estimate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "hessian_mpi/solvers/stored_operator.hpp"
#include "known_matrix.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr std::uint64_t plenty = 1 << 26;
constexpr std::int64_t probes = 8;

TEST(TraceEstimate, IsExactWhereTheRankIsAtMostTheProbes) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 50;
  std::vector<double> numbers(n * n);
  double trace = 0;
  for (int k = 1; k <= 5; ++k) {
    const double sign = k == 2 ? -1 : 1;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        const double number = sign * k * std::sin(static_cast<double>(k * i)) * std::sin(static_cast<double>(k * j));
        numbers[static_cast<std::size_t>(i * n + j)] += number;
        if (i == j) trace += number;
      }
    }
  }
  const MatrixFile file(world, n, numbers);
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto found = estimated_trace(matrix, probes, 3);
  EXPECT_NEAR(found.trace, trace, 1e-10);
  EXPECT_LE(found.error, 1e-10);
}

TEST(TraceEstimate, ElseIsWithinItsErrors) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 60;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  for (const std::uint64_t seed : {0, 1, 2}) {
    const auto found = estimated_trace(matrix, probes, seed);
    EXPECT_GT(found.error, 0.1);
    EXPECT_LT(found.error, 10);
    EXPECT_NEAR(found.trace, 2 * n, 4 * found.error);
  }
}

// Of a matrix without a low rank, with many probes and with few.
TEST(TraceEstimate, TwoErrorsHoldTheTraceIn95Of100Cases) {
  const auto world = ranks::Communicator::world();
  if (world.size() > 1) GTEST_SKIP() << "thousands of products, whose numbers do not depend on the ranks";
  constexpr std::int64_t n = 60;
  constexpr std::uint64_t seeds = 200;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  for (const std::int64_t of_few : {2, 5, 10}) {
    double held = 0;
    for (std::uint64_t k = 0; k < seeds; ++k) {
      const auto found = estimated_trace(matrix, of_few, 1000 * k);
      if (std::abs(found.trace - 2 * n) <= 2 * found.error) ++held;
    }
    EXPECT_GE(held / seeds, 0.90) << of_few << " probes";
    EXPECT_LE(held / seeds, 0.985) << of_few << " probes";
  }
}

}  // namespace
}  // namespace hessian_mpi::solvers
