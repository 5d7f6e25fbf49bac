#include "row_check.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <limits>

#include "closed_form_model.hpp"
#include "matrix_file.hpp"

namespace hessian_mpi::run {
namespace {

network::Data one_sample() {
  return {{torch::tensor({{0.5, -2.0}})}, {}};
}

network::Problem closed_form_problem() {
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.precision = Precision::float64;
  return {std::make_unique<ClosedFormModel>(), one_sample(), settings};
}

const std::vector<std::int64_t> every_row{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

TEST(RowError, IsSmallForTheHessianAndNotForAnotherMatrix) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, closed_form_size, closed_form_hessian(0.5, -2.0));
  const auto problem = closed_form_problem();
  EXPECT_LE(row_error(file.path(), file.matrix, problem, Matrix::hessian, every_row, 6, world), 1e-14);
  file.damage(5, 0, 0.0);  // -3 in the Hessian, the largest number of its row is -3.5
  EXPECT_NEAR(row_error(file.path(), file.matrix, problem, Matrix::hessian, every_row, 6, world), 3 / 3.5, 1e-12);
  EXPECT_LE(row_error(file.path(), file.matrix, problem, Matrix::hessian, {0, 1, 2, 3, 4}, 6, world), 1e-14);
}

TEST(RowError, KnowsTheL2Term) {
  const auto world = ranks::Communicator::world();
  auto numbers = closed_form_hessian(0.5, -2.0);
  for (std::size_t k = 0; k < closed_form_size; ++k) numbers[k * closed_form_size + k] += 0.75;
  const MatrixFile file(world, closed_form_size, numbers);
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.precision = Precision::float64;
  settings.l2 = 0.75;
  const network::Problem problem(std::make_unique<ClosedFormModel>(), one_sample(), settings);
  EXPECT_LE(row_error(file.path(), file.matrix, problem, Matrix::hessian, every_row, 6, world), 1e-14);
  file.damage(9, 9, 0.0);  // of d, which has a row of zeros but for this term
  EXPECT_NEAR(row_error(file.path(), file.matrix, problem, Matrix::hessian, every_row, 6, world), 1, 1e-12);
}

TEST(RowError, NumbersThatAreNotFiniteAreNoAgreement) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, closed_form_size, closed_form_hessian(0.5, -2.0));
  file.damage(5, 0, std::numeric_limits<double>::quiet_NaN());
  EXPECT_FALSE(row_error(file.path(), file.matrix, closed_form_problem(), Matrix::hessian, every_row, 6, world) <= 1);
}

}  // namespace
}  // namespace hessian_mpi::run
