// What a job is said to take, from sampled rows.

#include "hessian_mpi/run/estimate.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/example.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/run/report.hpp"

namespace hessian_mpi::run {
namespace {

network::Problem example() {
  auto made = network::make_example(0);
  return {std::move(made.model), made.data, {}};
}

matrix::MatrixShape matrix_of(const network::Problem& problem, const Rows& rows) {
  const auto n = problem.index().size();
  return {matrix::BlockGrid(n, 4 * n, rows), n, Precision::float32};
}

Estimate estimate_of(const network::Problem& problem, Method method, const Rows& rows) {
  engines::DoubleBackward unfactored(problem);
  return estimate(problem, layers::plan_layers(problem, method), matrix_of(problem, rows), Precision::float32,
                  std::uint64_t{1} << 30, unfactored, std::filesystem::temp_directory_path(),
                  ranks::Communicator::world());
}

// Times are not compared with times: only what must hold however fast the machine is.
TEST(Estimate, CountsTheBytesAndTheColumnsOfTheJob) {
  const auto problem = example();
  const auto whole = estimate_of(problem, Method::automatic, {0, 23365});
  EXPECT_EQ(whole.bytes, 23365ULL * 23365 * 4);
  EXPECT_EQ(whole.columns, 320ULL * 23045 * 4);  // the convolution's rows in the linear layer's
  EXPECT_EQ(whole.double_backward_row, 0);       // there is no such row
  EXPECT_GT(whole.rows, 0);
  EXPECT_GT(whole.bytes_a_second, 0);
  EXPECT_GT(whole.written_a_second, 0);

  const auto part = estimate_of(problem, Method::rows, {100, 110});
  EXPECT_EQ(part.bytes, 10ULL * 23365 * 4);
  EXPECT_EQ(part.columns, 0U);
  EXPECT_GT(part.double_backward_row, 0);
  EXPECT_DOUBLE_EQ(part.rows, 10 * part.double_backward_row);
  EXPECT_EQ(part.shared, 0);
}

TEST(Estimate, SharesComputingAmongRanksButNotTheFileSystem) {
  Estimate some;
  some.rows = 60;
  some.shared = 30;
  some.columns = 10'000'000'000;
  some.columns_a_second = 1e9;
  some.bytes = 30'000'000'000;
  some.bytes_a_second = 1e9;
  some.written_a_second = 3e9;
  EXPECT_DOUBLE_EQ(some.computing(1), 100);
  EXPECT_DOUBLE_EQ(some.computing(4), 25);
  EXPECT_DOUBLE_EQ(some.processing(1), 110);
  EXPECT_DOUBLE_EQ(some.processing(4), 27.5);
  EXPECT_DOUBLE_EQ(some.writing(), 30);
  Forecast forecast;
  forecast.estimate = some;
  forecast.serial = 2;
  EXPECT_DOUBLE_EQ(seconds_of_job(forecast, 1), 2 + 110);
  EXPECT_DOUBLE_EQ(seconds_of_job(forecast, 100), 2 + 30);
}

}  // namespace
}  // namespace hessian_mpi::run
