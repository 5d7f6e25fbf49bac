// Derivatives against differences: what agrees, what doesn't, and what a kink is taken for.

#include "differences.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <functional>
#include <numeric>
#include <utility>

#include "closed_form_model.hpp"
#include "formula_model.hpp"
#include "hessian_mpi/run/derivative_check.hpp"
#include "matrix_file.hpp"

namespace hessian_mpi::run {
namespace {

using torch::Tensor;

constexpr file::DifferenceTolerances tolerances{1e-6, 1e-6};

DifferenceFigures check_differences(network::Problem& problem, const network::LossAndGradient& point,
                                    const std::vector<Lines>& lines, Matrix matrix = Matrix::hessian) {
  const auto same = [&]() -> network::Problem& { return problem; };
  return run::check_differences({problem, same, same, epsilon_of(Precision::float64), false}, matrix, point, lines, 0,
                                tolerances);
}

network::Problem problem_of(std::unique_ptr<network::Model> model) {
  const auto samples = torch::tensor({{1.0, -3.0}, {0.0, -1.0}}, torch::kFloat64);
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.precision = Precision::float64;
  return {std::move(model), network::Data{{samples}, {}}, settings};
}

std::vector<std::int64_t> all_rows(std::int64_t n) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < n; ++i) rows.push_back(i);
  return rows;
}

matrix::MatrixShape whole_matrix(std::int64_t n) {
  return {matrix::BlockGrid(n, 8 * n), n, Precision::float64};
}

// Lines through a point, and a matrix times them in all rows.
std::vector<Lines> times_lines(const std::vector<double>& matrix, const std::vector<double>& gradient,
                               const matrix::MatrixShape& shape) {
  const auto n = static_cast<std::int64_t>(gradient.size());
  auto all = random_lines(gradient, shape, all_rows(n));
  for (auto& lines : all) {
    for (const auto& v : lines.directions) {
      auto& products = lines.products.emplace_back();
      for (const auto i : lines.rows) {
        const double* row = matrix.data() + i * n + lines.columns.begin;
        products.push_back(std::inner_product(v.begin(), v.end(), row, 0.0));
      }
    }
  }
  return all;
}

std::vector<Lines> times_lines(const std::vector<double>& matrix, const std::vector<double>& gradient) {
  return times_lines(matrix, gradient, whole_matrix(static_cast<std::int64_t>(gradient.size())));
}

TEST(CheckDifferences, TellTheHessianFromAnotherMatrix) {
  auto problem = problem_of(std::make_unique<ClosedFormModel>());
  const auto theta = problem.flat_parameters();
  const auto point = network::evaluate(problem);
  auto matrix = closed_form_hessian(0.5, -2.0);
  const auto check = [&] { return check_differences(problem, point, times_lines(matrix, point.gradient)); };
  const auto right = check();
  EXPECT_EQ(right.hessian.outcome, file::CheckOutcome::passed);
  EXPECT_LE(right.hessian.error, 1e-8);
  EXPECT_EQ(right.gradient.outcome, file::CheckOutcome::passed);
  EXPECT_EQ(problem.flat_parameters(), theta) << "parameters are put back";
  matrix[5 * closed_form_size] = 0;
  const auto wrong = check();
  EXPECT_EQ(wrong.hessian.outcome, file::CheckOutcome::failed);
  EXPECT_GE(wrong.hessian.error, 1e-3);
  EXPECT_EQ(wrong.gradient.outcome, file::CheckOutcome::passed) << "which has nothing to do with it";
}

TEST(CheckDifferences, KnowTheL2Term) {
  const auto samples = torch::tensor({{1.0, -3.0}, {0.0, -1.0}}, torch::kFloat64);
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.precision = Precision::float64;
  settings.l2 = 0.75;
  network::Problem problem(std::make_unique<ClosedFormModel>(), network::Data{{samples}, {}}, settings);
  auto matrix = closed_form_hessian(0.5, -2.0);
  for (std::size_t k = 0; k < closed_form_size; ++k) matrix[k * closed_form_size + k] += 0.75;
  const auto point = network::evaluate(problem);
  const auto found = check_differences(problem, point, times_lines(matrix, point.gradient));
  EXPECT_EQ(found.hessian.outcome, file::CheckOutcome::passed);
  EXPECT_EQ(found.gradient.outcome, file::CheckOutcome::passed);
}

TEST(CheckDifferences, TellTheGradientFromAnotherVector) {
  auto problem = problem_of(std::make_unique<ClosedFormModel>());
  auto point = network::evaluate(problem);
  point.gradient[1] += 0.1;
  const auto found = check_differences(problem, point, times_lines(closed_form_hessian(0.5, -2.0), point.gradient));
  EXPECT_EQ(found.gradient.outcome, file::CheckOutcome::failed);
  EXPECT_EQ(found.hessian.outcome, file::CheckOutcome::passed);
}

// L = sum relu(w - 1) + (w - 1)^2 / 2 over w = (1 + offset, 2): its gradient jumps where w is 1.
std::unique_ptr<network::Model> kinked(double offset) {
  return formula_model(torch::tensor({1 + offset, 2.0}, torch::kFloat64), [](const Tensor& w, const Tensor&) {
    return (torch::relu(w - 1) + 0.5 * (w - 1).pow(2)).sum();
  });
}

// H is the unit matrix at both sides of the kink.
DifferenceFigures figures_beside_kink(double offset) {
  auto problem = problem_of(kinked(offset));
  const auto point = network::evaluate(problem);
  return check_differences(problem, point, times_lines({1, 0, 0, 1}, point.gradient));
}

TEST(CheckDifferences, SayThatThereIsAKinkInsteadOfFailing) {
  EXPECT_EQ(figures_beside_kink(0).hessian.outcome, file::CheckOutcome::kinks);
  EXPECT_EQ(figures_beside_kink(1).hessian.outcome, file::CheckOutcome::passed);
}

TEST(CheckDifferences, GoCloserWhereAKinkIsNear) {
  constexpr double less_than_the_first_step = 1e-6;
  EXPECT_EQ(figures_beside_kink(less_than_the_first_step).hessian.outcome, file::CheckOutcome::passed);
  EXPECT_EQ(figures_beside_kink(-less_than_the_first_step).hessian.outcome, file::CheckOutcome::passed);
}

// L = relu(w0) - relu(-w0) + w1^2 / 2 at w = (0, 2): the slope by w0 is 1 on both sides, and 0 in autograd. So are
// those of units behind weights that begin as zero.
std::unique_ptr<network::Model> both_sides_alike() {
  return formula_model(torch::tensor({0.0, 2.0}, torch::kFloat64), [](const Tensor& w, const Tensor&) {
    return torch::relu(w[0]) - torch::relu(-w[0]) + 0.5 * w[1].pow(2);
  });
}

TEST(CheckDifferences, BlameNoDerivativeThatIsRightBesideThePoint) {
  auto problem = problem_of(both_sides_alike());
  auto point = network::evaluate(problem);
  ASSERT_EQ(point.gradient, (std::vector<double>{0, 2}));
  const auto lines = times_lines({0, 0, 0, 1}, {1, 2});  // which move w0, too
  EXPECT_EQ(check_differences(problem, point, lines).gradient.outcome, file::CheckOutcome::kinks);
  EXPECT_EQ(check_differences(problem, point, lines).hessian.outcome, file::CheckOutcome::passed);
  point.gradient[1] += 0.1;
  EXPECT_EQ(check_differences(problem, point, lines).gradient.outcome, file::CheckOutcome::failed)
      << "which is not what autograd says";
}

// L = sum w^2 * stop_gradient(w): autograd's H is not the derivative of its gradient.
std::unique_ptr<network::Model> cut_off() {
  return formula_model(torch::tensor({1.0, 2.0}, torch::kFloat64),
                       [](const Tensor& w, const Tensor&) { return (w.pow(2) * w.detach()).sum(); });
}

TEST(CheckDifferences, FindWhatIsCutOffTheGraph) {
  auto problem = problem_of(cut_off());
  const auto point = network::evaluate(problem);
  const auto found = check_differences(problem, point, times_lines({2.0, 0.0, 0.0, 4.0}, point.gradient));
  EXPECT_FALSE(found.constants);
  EXPECT_EQ(found.hessian.outcome, file::CheckOutcome::failed);
  EXPECT_EQ(found.gradient.outcome, file::CheckOutcome::failed);
}

// L = product of looked-up rows, one of them the padding, which autograd takes for a constant.
std::unique_ptr<network::Model> padded() {
  return formula_model(torch::tensor({{1.0}, {2.0}, {3.0}}, torch::kFloat64), [](const Tensor& w, const Tensor&) {
    return torch::embedding(w, torch::tensor({0, 1, 2}), /*padding_idx=*/1).prod();
  });
}

TEST(CheckDifferences, SayThatPaddingIsTakenForAConstant) {
  auto problem = problem_of(padded());
  const auto point = network::evaluate(problem);
  ASSERT_EQ(point.gradient, (std::vector<double>{6, 0, 2}));
  const std::vector<double> hessian{0, 0, 2, 0, 0, 0, 2, 0, 0};
  const auto found = check_differences(problem, point, times_lines(hessian, point.gradient));
  EXPECT_TRUE(found.constants);
  EXPECT_EQ(found.gradient.outcome, file::CheckOutcome::passed);
  EXPECT_EQ(found.hessian.outcome, file::CheckOutcome::passed);
  const std::vector<double> wrong{0, 0, 3, 0, 0, 0, 3, 0, 0};
  EXPECT_EQ(check_differences(problem, point, times_lines(wrong, point.gradient)).hessian.outcome,
            file::CheckOutcome::failed);
}

// w of each sample, for w near 1 alone.
std::unique_ptr<network::Model> bounded() {
  return formula_model(torch::tensor({1.0, 2.0}, torch::kFloat64), [](const Tensor& w, const Tensor& x) {
    TORCH_CHECK((w > 0.9).all().item<bool>(), "w is too small");
    return w.expand({x.size(0), 2});
  });
}

// Of (w - y)^2 the mean over two outputs: a Gauss-Newton matrix of 1 on the diagonal.
TEST(CheckDifferences, EndWhereTheNetworkCannotBeEvaluatedFarFromThePoint) {
  network::ProblemSettings settings;
  settings.loss = "mse";
  settings.precision = Precision::float64;
  const auto zeros = torch::zeros({3, 2}, torch::kFloat64);
  network::Problem problem(bounded(), network::Data{{zeros}, {zeros}}, settings);
  const auto point = network::evaluate(problem);
  const auto outcome_of = [&](const std::vector<double>& matrix) {
    return check_differences(problem, point, times_lines(matrix, point.gradient), Matrix::ggn).hessian.outcome;
  };
  EXPECT_EQ(outcome_of({1, 0, 0, 1}), file::CheckOutcome::passed);
  EXPECT_EQ(outcome_of({1, 0, 0, 2}), file::CheckOutcome::failed);
}

// The closed form's parameters as two tensors, the first of two numbers.
matrix::MatrixShape shape_of_two(Entries entries) {
  matrix::ParameterIndex index;
  index.append("first", {2});
  index.append("second", {closed_form_size - 2});
  return matrix::matrix_of(index, Precision::float64, entries);
}

TEST(CheckDifferences, TellDiagonalBlocksAndDiagonalsFromOthers) {
  auto problem = problem_of(std::make_unique<ClosedFormModel>());
  const auto point = network::evaluate(problem);
  for (const auto entries : {Entries::diagonal_blocks, Entries::diagonal}) {
    auto matrix = closed_form_hessian(0.5, -2.0);
    const auto check = [&] {
      return check_differences(problem, point, times_lines(matrix, point.gradient, shape_of_two(entries)));
    };
    EXPECT_EQ(check().hessian.outcome, file::CheckOutcome::passed) << name_of(entries);
    EXPECT_EQ(check().gradient.outcome, file::CheckOutcome::passed) << name_of(entries);
    matrix[0] += 1;
    EXPECT_EQ(check().hessian.outcome, file::CheckOutcome::failed) << name_of(entries);
  }
}

double length_of(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

TEST(RandomLines, AreUnitVectorsAndTheSameInEveryCall) {
  const std::vector<double> gradient(50, 1.0);
  const auto lines = random_lines(gradient, whole_matrix(50), {3, 4});
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].rows, (std::vector<std::int64_t>{3, 4}));
  ASSERT_EQ(lines[0].directions.size(), 4U);
  EXPECT_EQ(lines[0].directions, random_lines(gradient, whole_matrix(50), {3, 4})[0].directions);
  EXPECT_NE(lines[0].directions[0], lines[0].directions[1]);
  for (const auto& v : lines[0].directions) EXPECT_NEAR(length_of(v), 1, 1e-12);
}

TEST(RandomLines, AreThereAgainWithoutWhatHasNoGradient) {
  std::vector<double> gradient(50, 1.0);
  gradient[7] = 0;
  const auto directions = random_lines(gradient, whole_matrix(50), {0})[0].directions;
  auto expected = directions[0];
  expected[7] = 0;
  EXPECT_EQ(directions[2], expected);
}

TEST(RandomLines, MoveOneTensorOrOneParameterOfASparserMatrix) {
  const std::vector<double> gradient(closed_form_size, 1.0);
  const auto sample = all_rows(closed_form_size);
  const auto blocks = random_lines(gradient, shape_of_two(Entries::diagonal_blocks), sample);
  ASSERT_EQ(blocks.size(), 2U);
  EXPECT_EQ(blocks[1].columns, (Rows{2, closed_form_size}));
  EXPECT_EQ(blocks[0].rows, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(blocks[1].directions[0].size(), static_cast<std::size_t>(closed_form_size - 2));
  const auto single = random_lines(gradient, shape_of_two(Entries::diagonal), sample);
  ASSERT_FALSE(single.empty());
  EXPECT_EQ(single[0].columns.count(), 1);
  EXPECT_EQ(single[0].rows, std::vector<std::int64_t>{single[0].columns.begin});
  EXPECT_NEAR(std::abs(single[0].directions[0][0]), 1, 1e-12);
}

TEST(Products, AreThoseOfTheFilesRows) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, 60, symmetric_numbers(60));
  std::vector<double> ones(60, 1.0);
  std::vector<double> unit(60, 0.0);
  unit[7] = 2;
  const auto found = products(file.path(), {{0, 60}, {3, 20, 59}, {ones, unit}, {}}, world);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[1], (std::vector<double>{2 * std::cos(10.0), 2 * std::cos(27.0), 2 * std::cos(66.0)}));
  double sum = 0;
  for (int j = 0; j < 60; ++j) sum += std::cos(20.0 + j);
  EXPECT_NEAR(found[0][1], sum, 1e-12);
  EXPECT_EQ(products(file.path(), {{7, 8}, {3, 59}, {{2.0}}, {}}, world)[0],
            (std::vector<double>{2 * std::cos(10.0), 2 * std::cos(66.0)}))
      << "of some columns";
}

}  // namespace
}  // namespace hessian_mpi::run
