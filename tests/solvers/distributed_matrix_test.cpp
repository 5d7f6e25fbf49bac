#include "hessian_mpi/solvers/distributed_matrix.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "expect_error.hpp"
#include "matrix_file.hpp"

namespace hessian_mpi::solvers {
namespace {

double average(const std::vector<double>& numbers, std::int64_t n, std::int64_t i, std::int64_t j) {
  return (numbers[static_cast<std::size_t>(i * n + j)] + numbers[static_cast<std::size_t>(j * n + i)]) / 2;
}

class EverySize : public testing::TestWithParam<std::int64_t> {};

TEST_P(EverySize, SymmetricPartIsTheAverageWithTheTranspose) {
  const auto world = ranks::Communicator::world();
  const auto n = GetParam();
  const auto numbers = any_numbers(n);
  const MatrixFile file(world, n, numbers);
  const auto [rows, columns] = nearest_to_square(world.size());
  const ProcessGrid grid(world, rows, columns);
  for (const auto half : {Half::lower, Half::both}) {
    auto matrix = square_matrix(grid, n);
    double read = 0;
    const auto sums = read_symmetric_part(file.path(), half, matrix, world, [&](double more) { read += more; });
    std::int64_t seen = 0;
    double trace = 0;
    double squares = 0;
    for (std::int64_t j = 0; j < matrix.own_columns(); ++j) {
      for (std::int64_t i = 0; i < matrix.own_rows(); ++i, ++seen) {
        const auto row = matrix.row_of(i);
        const auto column = matrix.column_of(j);
        if (half == Half::lower && row < column) continue;
        ASSERT_DOUBLE_EQ(matrix.data()[j * matrix.own_rows() + i], average(numbers, n, row, column))
            << row << ", " << column;
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      trace += average(numbers, n, i, i);
      for (std::int64_t j = 0; j < n; ++j) squares += std::pow(average(numbers, n, i, j), 2);
    }
    EXPECT_EQ(world.sum(seen), n * n);
    EXPECT_EQ(world.sum(static_cast<std::int64_t>(read)), n);
    EXPECT_NEAR(sums.trace, trace, 1e-12 * static_cast<double>(n));
    EXPECT_NEAR(sums.squares, squares, 1e-12 * squares);
  }
}

TEST_P(EverySize, PanelsHaveEveryColumnOnce) {
  const auto world = ranks::Communicator::world();
  const auto n = GetParam();
  const auto [rows, columns] = nearest_to_square(world.size());
  const ProcessGrid grid(world, rows, columns);
  auto matrix = square_matrix(grid, n);
  for (std::int64_t j = 0; j < matrix.own_columns(); ++j) {
    for (std::int64_t i = 0; i < matrix.own_rows(); ++i) {
      matrix.data()[j * matrix.own_rows() + i] = static_cast<double>(matrix.column_of(j) * n + matrix.row_of(i));
    }
  }
  std::int64_t seen = 0;
  each_column_panel(matrix, world, [&](const Rows& own, const double* numbers) {
    for (auto k = own.begin; k < own.end; ++k, ++seen) {
      for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(numbers[(k - own.begin) * n + i], static_cast<double>(k * n + i));
    }
  });
  EXPECT_EQ(world.sum(seen), n);
}

INSTANTIATE_TEST_SUITE_P(Matrices, EverySize, testing::Values(4, 5, 64, 129, 200));

TEST(SquareMatrix, NeedsARowForEveryRowOfTheGrid) {
  const auto world = ranks::Communicator::world();
  const ProcessGrid grid(world, 1, world.size());
  if (world.size() == 1) return;
  expect_input_error([&] { square_matrix(grid, world.size() - 1); }, {"is too small for", "use "});
}

TEST(SquareMatrix, IsRefusedWhereScaLapackCannotCountIt) {
  const auto world = ranks::Communicator::world();
  const ProcessGrid grid(world, 1, world.size());
  expect_input_error([&] { square_matrix(grid, 500'000); }, {"use more ranks"});
}

TEST(ReadSymmetricPart, NamesANumberThatIsNotFinite) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 20;
  const MatrixFile file(world, n, any_numbers(n));
  file.damage(17, 3, std::numeric_limits<double>::quiet_NaN());
  const ProcessGrid grid(world, 1, world.size());
  auto matrix = square_matrix(grid, n);
  try {
    read_symmetric_part(file.path(), Half::lower, matrix, world, {});
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("row 17, column 3"), std::string::npos) << error.what();
  }
}

TEST(NearestToSquare, FillsTheRectangle) {
  EXPECT_EQ(nearest_to_square(1), (std::array<int, 2>{1, 1}));
  EXPECT_EQ(nearest_to_square(7), (std::array<int, 2>{1, 7}));
  EXPECT_EQ(nearest_to_square(12), (std::array<int, 2>{3, 4}));
  EXPECT_EQ(nearest_to_square(64), (std::array<int, 2>{8, 8}));
}

}  // namespace
}  // namespace hessian_mpi::solvers
