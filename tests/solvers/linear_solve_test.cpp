#include "hessian_mpi/solvers/linear_solve.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "hessian_mpi/solvers/stored_operator.hpp"
#include "known_matrix.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr std::int64_t n = 70;
constexpr std::uint64_t plenty = 1 << 26;

double product(const std::vector<double>& matrix, double damping, const double* x, std::int64_t i) {
  double sum = damping * x[i];
  for (std::int64_t j = 0; j < n; ++j) sum += matrix[static_cast<std::size_t>(i * n + j)] * x[j];
  return sum;
}

// Two solutions, and the right sides that they answer.
struct System {
  std::vector<double> matrix = second_differences(n);
  double damping;
  std::vector<double> solutions;
  RightSides right_sides;
  explicit System(double with) : damping(with) {
    for (std::int64_t k = 0; k < 2 * n; ++k) solutions.push_back(std::sin(static_cast<double>(k * k)));
    for (std::int64_t k = 0; k < 2; ++k) {
      for (std::int64_t i = 0; i < n; ++i)
        right_sides.push_back(product(matrix, damping, &solutions[k == 0 ? 0 : n], i));
    }
  }
};

void expect_near(const std::vector<double>& found, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t k = 0; k < found.size(); ++k) EXPECT_NEAR(found[k], expected[k], tolerance) << k;
}

// -1 makes the matrix indefinite: half of its eigenvalues lie below 1.
class Damping : public testing::TestWithParam<double> {};

TEST_P(Damping, FactorsGiveTheSolution) {
  const auto world = ranks::Communicator::world();
  const System system(GetParam());
  const MatrixFile file(world, n, system.matrix);
  const auto [rows, columns] = nearest_to_square(world.size());
  const ProcessGrid grid(world, rows, columns);
  auto matrix = square_matrix(grid, n);
  read_symmetric_part(file.path(), Half::both, matrix, world, {});
  const auto found = solve_dense(matrix, system.damping, system.right_sides, world);
  expect_near(found.solutions, system.solutions, 1e-10);
  EXPECT_GT(found.reciprocal_condition, 1e-5);
  EXPECT_LT(found.reciprocal_condition, 1);
}

TEST_P(Damping, MinresGivesTheSolution) {
  const auto world = ranks::Communicator::world();
  const System system(GetParam());
  const MatrixFile file(world, n, system.matrix);
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  std::int64_t last = 0;
  const auto found = solve_iteratively(matrix, system.damping, system.right_sides, {Solver::minres, 1e-12, 1000},
                                       [&](std::int64_t iteration, double) { last = iteration; });
  expect_near(found.solutions, system.solutions, 1e-7);
  ASSERT_EQ(found.iterations.size(), 2U);
  EXPECT_EQ(found.iterations[1], last);
}

INSTANTIATE_TEST_SUITE_P(Systems, Damping, testing::Values(0, 0.5, -1));

TEST(ConjugateGradients, GiveTheSolutionOfAPositiveMatrix) {
  const auto world = ranks::Communicator::world();
  const System system(0.5);
  const MatrixFile file(world, n, system.matrix);
  StoredOperator matrix(file.path(), file.matrix, 1, world);
  const auto found = solve_iteratively(matrix, 0.5, system.right_sides, {Solver::cg, 1e-12, 1000});
  expect_near(found.solutions, system.solutions, 1e-9);
}

void expect_failure(const std::function<void()>& action, const std::string& words) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const ranks::AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::failed);
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Failures, SayWhatToDo) {
  const auto world = ranks::Communicator::world();
  const System system(-1);
  const MatrixFile file(world, n, system.matrix);
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  expect_failure([&] { solve_iteratively(matrix, -1, system.right_sides, {Solver::cg, 1e-12, 1000}); }, "minres");
  expect_failure(
      [&] {
        solve_iteratively(matrix, -1, system.right_sides, {Solver::minres, 1e-12, 3});
      },
      "in 3 iterations");
  const MatrixFile zeros(world, n, std::vector<double>(static_cast<std::size_t>(n * n)));
  const ProcessGrid grid(world, 1, world.size());
  auto singular = square_matrix(grid, n);
  read_symmetric_part(zeros.path(), Half::both, singular, world, {});
  expect_failure([&] { solve_dense(singular, 0, system.right_sides, world); }, "--damping");
}

TEST(ErrorsOfSolutions, AreThoseOfTheEquation) {
  const auto world = ranks::Communicator::world();
  System system(0.5);
  const MatrixFile file(world, n, system.matrix);
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto right = errors_of(matrix, 0.5, 4.5, system.right_sides, system.solutions);
  EXPECT_LT(right.residuals[0], 1e-14);
  EXPECT_LT(right.backward_errors[1], 1e-14);
  EXPECT_NEAR(right.products[n + 3], product(system.matrix, 0, &system.solutions[n], 3), 1e-13);
  for (std::size_t i = n; i < 2 * n; ++i) system.solutions[i] = 0;
  const auto wrong = errors_of(matrix, 0.5, 4.5, system.right_sides, system.solutions);
  EXPECT_LT(wrong.residuals[0], 1e-14);
  EXPECT_NEAR(wrong.residuals[1], 1, 1e-14);
  EXPECT_NEAR(wrong.backward_errors[1], 1, 1e-14);
}

}  // namespace
}  // namespace hessian_mpi::solvers
