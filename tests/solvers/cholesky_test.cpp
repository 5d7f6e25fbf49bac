#include "hessian_mpi/solvers/cholesky.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "hessian_mpi/solvers/congruence.hpp"
#include "known_matrix.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr std::int64_t n = 70;

// Second differences, plus damping, on all ranks.
class Differences : public testing::Test {
 protected:
  DistributedMatrix shifted(double scale, double damping) {
    auto matrix = square_matrix(grid_, n);
    read_symmetric_part(file_.path(), Half::lower, matrix, world_, {});
    shift(matrix, scale, damping);
    return matrix;
  }
  // The closed form of an entry of the inverse.
  static double inverse_at(std::int64_t i, std::int64_t j) {
    return static_cast<double>((std::min(i, j) + 1) * (n - std::max(i, j))) / static_cast<double>(n + 1);
  }

  ranks::Communicator world_ = ranks::Communicator::world();
  MatrixFile file_{world_, n, second_differences(n)};
  ProcessGrid grid_{world_, nearest_to_square(world_.size())[0], nearest_to_square(world_.size())[1]};
};

TEST_F(Differences, HaveTheirDeterminantAndInverse) {
  auto matrix = shifted(2, 0);
  CholeskyFactor factor(matrix, world_);
  ASSERT_TRUE(factor.is_there());
  EXPECT_NEAR(factor.log_determinant(), std::log(n + 1.0) + n * std::log(2), 1e-10);
  const double condition = eigenvalue_of_differences(n - 1, n) / eigenvalue_of_differences(0, n);
  EXPECT_GT(factor.reciprocal_condition(), 0.2 / condition);
  EXPECT_LT(factor.reciprocal_condition(), 2 / condition);
  factor.invert();
  each_number(matrix, [](double number, std::int64_t row, std::int64_t column) {
    EXPECT_NEAR(number, inverse_at(row, column) / 2, 1e-10) << row << ", " << column;
  });
}

TEST_F(Differences, AreSolvedWith) {
  auto matrix = shifted(1, 0);
  const CholeskyFactor factor(matrix, world_);
  std::vector<double> sides(2 * n);
  sides[3] = sides[n + 60] = 1;
  const auto solutions = factor.solve(sides);
  for (std::int64_t i = 0; i < n; ++i) {
    EXPECT_NEAR(solutions[static_cast<std::size_t>(i)], inverse_at(i, 3), 1e-10);
    EXPECT_NEAR(solutions[static_cast<std::size_t>(n + i)], inverse_at(i, 60), 1e-10);
  }
}

TEST_F(Differences, HaveNoFactorWhereTheyAreIndefinite) {
  const double smallest = eigenvalue_of_differences(0, n);
  for (const double away : {-1e-6, 1e-6}) {
    auto matrix = shifted(1, -smallest + away);
    EXPECT_EQ(CholeskyFactor(matrix, world_).is_there(), away > 0);
  }
}

TEST_F(Differences, InASandwichOfInversesAreTheInverse) {
  auto outer = shifted(1, 0);
  CholeskyFactor(outer, world_).invert();
  auto middle = shifted(1, 0);
  sandwich(outer, middle);
  each_number(middle, [](double number, std::int64_t row, std::int64_t column) {
    EXPECT_NEAR(number, inverse_at(row, column), 1e-9) << row << ", " << column;
  });
}

TEST_F(Differences, GiveTheirRowsAndColumns) {
  auto matrix = shifted(1, 0);
  CholeskyFactor(matrix, world_).invert();
  const auto part = principal_part(matrix, {{5, 9}, {40, 69}});
  ASSERT_EQ(part.rows(), 33);
  const auto row_of = [](std::int64_t k) { return k < 4 ? 5 + k : 36 + k; };
  each_number(part, [&](double number, std::int64_t row, std::int64_t column) {
    EXPECT_NEAR(number, inverse_at(row_of(row), row_of(column)), 1e-10) << row << ", " << column;
  });
}

TEST_F(Differences, AreTheSumOverTheirEigenvectors) {
  auto matrix = shifted(1, 0);
  auto vectors = square_matrix(grid_, n);
  const auto values = eigenvalues_and_vectors_of(matrix, vectors, world_);
  auto sum = square_matrix(grid_, n);
  weighted_sum(vectors, values, sum);
  each_number(sum, [](double number, std::int64_t row, std::int64_t column) {
    const auto away = std::abs(row - column);
    EXPECT_NEAR(number, away == 0 ? 2 : away == 1 ? -1 : 0, 1e-12) << row << ", " << column;
  });
}

}  // namespace
}  // namespace hessian_mpi::solvers
