#include "hessian_mpi/engines/double_backward.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "closed_form_model.hpp"

namespace hessian_mpi::engines {
namespace {

// Means over the five samples: 0.6 and -0.2.
network::Data five_samples() {
  return {{torch::tensor({{1.0, 2.0}, {-1.0, 0.5}, {2.0, -3.0}, {0.0, 1.0}, {1.0, -1.5}})}, {}};
}
constexpr double mean_0 = 0.6;
constexpr double mean_1 = -0.2;

network::Problem problem_with(std::optional<std::int64_t> batch_size, Precision precision,
                              std::vector<std::string> patterns = {"*"}) {
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.batch_size = batch_size;
  settings.precision = precision;
  settings.patterns = std::move(patterns);
  return {std::make_unique<ClosedFormModel>(), five_samples(), settings};
}

template <class Number>
std::vector<Number> rows_of_engine(DoubleBackward& engine, const Rows& rows, Precision storage, std::int64_t columns) {
  // NaN: what is not written shows.
  std::vector<Number> numbers(static_cast<std::size_t>(rows.count() * columns),
                              std::numeric_limits<Number>::quiet_NaN());
  double advanced = 0;
  engine.compute(rows, {0, columns}, storage, numbers.data(), [&](double done) { advanced += done; });
  EXPECT_NEAR(advanced, static_cast<double>(rows.count()), 1e-9);
  return numbers;
}

template <class Number>
void expect_near(const std::vector<Number>& found, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_NEAR(found[k], expected[k], tolerance) << "number " << k;
}

TEST(DoubleBackward, AllRowsAreTheClosedFormInFloat64) {
  const auto problem = problem_with(std::nullopt, Precision::float64);
  DoubleBackward engine(problem);
  const auto rows = rows_of_engine<double>(engine, {0, closed_form_size}, Precision::float64, closed_form_size);
  expect_near(rows, closed_form_hessian(mean_0, mean_1), 1e-13);
}

TEST(DoubleBackward, BatchesOfAnySizeSumToTheClosedForm) {
  for (const std::int64_t batch_size : {1, 2, 3, 4, 5, 99}) {
    const auto problem = problem_with(batch_size, Precision::float64);
    DoubleBackward engine(problem);
    const auto rows = rows_of_engine<double>(engine, {0, closed_form_size}, Precision::float64, closed_form_size);
    expect_near(rows, closed_form_hessian(mean_0, mean_1), 1e-13);
  }
}

TEST(DoubleBackward, StoresEitherPrecisionFromEither) {
  const auto expected = closed_form_hessian(mean_0, mean_1);
  for (const auto computed : {Precision::float32, Precision::float64}) {
    for (const std::optional<std::int64_t> batch_size :
         {std::optional<std::int64_t>(), std::optional<std::int64_t>(2)}) {
      const auto problem = problem_with(batch_size, computed);
      DoubleBackward engine(problem);
      expect_near(rows_of_engine<float>(engine, {0, closed_form_size}, Precision::float32, closed_form_size), expected,
                  1e-5);
      expect_near(rows_of_engine<double>(engine, {0, closed_form_size}, Precision::float64, closed_form_size), expected,
                  1e-5);
    }
  }
}

TEST(DoubleBackward, ARowDoesNotDependOnTheRowsAskedForWithIt) {
  const auto problem = problem_with(2, Precision::float32);
  DoubleBackward engine(problem);
  const auto all = rows_of_engine<float>(engine, {0, closed_form_size}, Precision::float32, closed_form_size);
  for (std::int64_t i = closed_form_size - 1; i >= 0; --i) {
    const auto alone = rows_of_engine<float>(engine, {i, i + 1}, Precision::float32, closed_form_size);
    EXPECT_EQ(std::memcmp(alone.data(), all.data() + i * closed_form_size, alone.size() * sizeof(float)), 0)
        << "row " << i;
  }
}

TEST(DoubleBackward, ChosenParametersGiveTheirPartOfTheMatrix) {
  const auto problem = problem_with(std::nullopt, Precision::float64, {"b"});
  ASSERT_EQ(problem.index().size(), 2);
  DoubleBackward engine(problem);
  const auto all = closed_form_hessian(mean_0, mean_1);
  const auto element = [&](std::size_t i, std::size_t j) { return all[i * closed_form_size + j]; };
  expect_near(rows_of_engine<double>(engine, {0, 2}, Precision::float64, 2),
              {element(4, 4), element(4, 5), element(5, 4), element(5, 5)}, 1e-13);
}

TEST(DoubleBackward, AsksForMemoryOnlyWhereBatchesAreAddedUp) {
  const auto one = problem_with(std::nullopt, Precision::float32);
  const auto many = problem_with(2, Precision::float32);
  EXPECT_EQ(DoubleBackward(one).bytes_per_row(closed_form_size), 0U);
  EXPECT_EQ(DoubleBackward(one).rows_at_once(), 1);
  EXPECT_EQ(DoubleBackward(many).bytes_per_row(closed_form_size), closed_form_size * sizeof(double));
  EXPECT_GT(DoubleBackward(many).rows_at_once(), 1);
}

}  // namespace
}  // namespace hessian_mpi::engines
