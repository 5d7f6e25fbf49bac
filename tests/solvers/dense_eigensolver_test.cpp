#include "hessian_mpi/solvers/dense_eigensolver.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>

namespace hessian_mpi::solvers {
namespace {

using Formula = std::function<double(std::int64_t row, std::int64_t column)>;

class Grid {
 public:
  const ranks::Communicator world = ranks::Communicator::world();
  const ProcessGrid grid{world, nearest_to_square(world.size())[0], nearest_to_square(world.size())[1]};

  DistributedMatrix matrix(std::int64_t n, const Formula& formula) const {
    auto made = square_matrix(grid, n);
    for (std::int64_t j = 0; j < made.own_columns(); ++j) {
      for (std::int64_t i = 0; i < made.own_rows(); ++i) {
        made.data()[j * made.own_rows() + i] = formula(made.row_of(i), made.column_of(j));
      }
    }
    return made;
  }
};

// Second differences: eigenvalue k is 2 - 2 cos(pi (k + 1) / (n + 1)).
double second_differences(std::int64_t row, std::int64_t column) {
  return row == column ? 2 : std::abs(row - column) == 1 ? -1 : 0;
}
double eigenvalue_of_differences(std::int64_t k, std::int64_t n) {
  return 2 - 2 * std::cos(std::numbers::pi * static_cast<double>(k + 1) / static_cast<double>(n + 1));
}

// I + 3 u u^T + ... with |u| = 1: n - 1 values are 1, as most of a Hessian's are 0.
Formula mostly_equal(std::int64_t n) {
  return [n](std::int64_t row, std::int64_t column) { return (row == column ? 1 : 0) + 3.0 / static_cast<double>(n); };
}

class EverySize : public testing::TestWithParam<std::int64_t> {};

TEST_P(EverySize, EigenvaluesOfSecondDifferencesAreTheirFormula) {
  const Grid on;
  const auto n = GetParam();
  auto matrix = on.matrix(n, second_differences);
  const auto values = eigenvalues_of(matrix, on.world);
  ASSERT_EQ(values.size(), static_cast<std::size_t>(n));
  for (std::int64_t k = 0; k < n; ++k) {
    EXPECT_NEAR(values[static_cast<std::size_t>(k)], eigenvalue_of_differences(k, n), 1e-13);
  }
}

TEST_P(EverySize, EigenvectorsOfSecondDifferencesAreSines) {
  const Grid on;
  const auto n = GetParam();
  auto matrix = on.matrix(n, second_differences);
  auto vectors = square_matrix(on.grid, n);
  const auto values = eigenvalues_and_vectors_of(matrix, vectors, on.world);
  for (std::int64_t j = 0; j < vectors.own_columns(); ++j) {
    const auto k = vectors.column_of(j);
    EXPECT_NEAR(values[static_cast<std::size_t>(k)], eigenvalue_of_differences(k, n), 1e-13);
    for (std::int64_t i = 0; i < vectors.own_rows(); ++i) {
      const auto along = static_cast<double>((vectors.row_of(i) + 1) * (k + 1)) / static_cast<double>(n + 1);
      const double sine = std::sqrt(2.0 / static_cast<double>(n + 1)) * std::sin(std::numbers::pi * along);
      ASSERT_NEAR(std::abs(vectors.data()[j * vectors.own_rows() + i]), std::abs(sine), 1e-9);
    }
  }
}

TEST_P(EverySize, ManyEqualEigenvaluesAreFoundWithOrthogonalVectors) {
  const Grid on;
  const auto n = GetParam();
  auto matrix = on.matrix(n, mostly_equal(n));
  auto vectors = square_matrix(on.grid, n);
  const auto values = eigenvalues_and_vectors_of(matrix, vectors, on.world);
  EXPECT_NEAR(values.back(), 4, 1e-12);
  for (std::size_t k = 0; k + 1 < values.size(); ++k) EXPECT_NEAR(values[k], 1, 1e-12);
  const auto errors = errors_of(on.matrix(n, mostly_equal(n)), values, vectors, on.world);
  EXPECT_LT(errors.residual, 1e-13);
  EXPECT_LT(errors.orthogonality, 1e-13);
}

INSTANTIATE_TEST_SUITE_P(Matrices, EverySize, testing::Values(4, 5, 67, 150));

TEST(ErrorsOf, ShowAWrongEigenvalue) {
  const std::vector<double> values{-1, 2, 3};
  const SymmetricSums right{4, 14, 3};
  EXPECT_LT(errors_of(values, right).trace, 1e-15);
  EXPECT_LT(errors_of(values, right).frobenius, 1e-15);
  EXPECT_NEAR(errors_of({-1, 2, 3.6}, right).trace, 0.6 / 6.6, 1e-12);
  EXPECT_NEAR(errors_of({1, 2, 3}, right).trace, 2.0 / 6, 1e-12);
  EXPECT_NEAR(errors_of({-1, 2, 4}, right).frobenius, 0.5, 1e-12);
}

TEST(ErrorsOf, ShowAWrongVector) {
  const Grid on;
  constexpr std::int64_t n = 70;
  const auto matrix = on.matrix(n, second_differences);
  auto values = std::vector<double>(static_cast<std::size_t>(n), 2.0);
  const auto unit = on.matrix(n, [](auto row, auto column) { return row == column ? 1.0 : 0.0; });
  const auto of_unit = errors_of(matrix, values, unit, on.world);  // A e - 2 e has two numbers -1, at the edges one
  EXPECT_NEAR(of_unit.residual, std::sqrt(2.0) / 2, 1e-12);
  EXPECT_EQ(of_unit.orthogonality, 0);
  const auto skewed = on.matrix(n, [](auto row, auto column) {
    return row == column ? 1.0 : row == 3 && column == 66 ? 0.25 : 0.0;
  });
  EXPECT_NEAR(errors_of(matrix, values, skewed, on.world).orthogonality, 0.25, 1e-12);
}

TEST(CostOfDecomposition, FallsWithRanksAndGrowsWithVectors) {
  const BlasSpeed speed{1e10, 1e9};
  const auto one = cost_of_decomposition(10000, false, 1, speed);
  EXPECT_NEAR(one.operations, 4.0 / 3 * 1e12, 1e9);
  EXPECT_NEAR(one.seconds, 2.0 / 3 * 1e3 + 2.0 / 3 * 1e2, 1);
  EXPECT_NEAR(cost_of_decomposition(10000, false, 4, speed).seconds, one.seconds / 4, 1e-6);
  EXPECT_GT(cost_of_decomposition(10000, true, 1, speed).bytes, 3 * one.bytes);
}

}  // namespace
}  // namespace hessian_mpi::solvers
