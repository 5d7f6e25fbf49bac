#include "hessian_mpi/solvers/stored_operator.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "matrix_file.hpp"

namespace hessian_mpi::solvers {
namespace {

double element(std::int64_t vector, std::int64_t i) {
  return std::cos(static_cast<double>(i * (vector + 1)));
}

constexpr std::int64_t n = 41;
constexpr std::uint64_t plenty = 1 << 20;

class InMemoryOrNot : public testing::TestWithParam<std::uint64_t> {};

TEST_P(InMemoryOrNot, ProductsAreOfTheSymmetricPart) {
  const auto world = ranks::Communicator::world();
  const auto numbers = any_numbers(n);
  const MatrixFile file(world, n, numbers);
  StoredOperator matrix(file.path(), file.matrix, GetParam(), world);
  EXPECT_EQ(matrix.in_memory(), GetParam() == plenty);
  for (const std::int64_t count : {1, 3}) {
    std::vector<double> own;
    for (std::int64_t v = 0; v < count; ++v) {
      for (auto i = matrix.own().begin; i < matrix.own().end; ++i) own.push_back(element(v, i));
    }
    std::vector<double> products(own.size(), std::numeric_limits<double>::quiet_NaN());
    matrix.multiply(own.data(), count, products.data());
    for (std::int64_t v = 0; v < count; ++v) {
      for (auto i = matrix.own().begin; i < matrix.own().end; ++i) {
        double expected = 0;
        for (std::int64_t j = 0; j < n; ++j) {
          const auto a = numbers[static_cast<std::size_t>(i * n + j)] + numbers[static_cast<std::size_t>(j * n + i)];
          expected += 0.5 * a * element(v, j);
        }
        const auto at = static_cast<std::size_t>(v * matrix.own().count() + i - matrix.own().begin);
        EXPECT_NEAR(products[at], expected, 1e-13) << v << ", " << i;
      }
    }
  }
  EXPECT_EQ(matrix.passes(), 2);
}

TEST_P(InMemoryOrNot, ANumberThatIsNotFiniteIsAnErrorOnAllRanks) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, n, any_numbers(n));
  file.damage(7, 2, std::numeric_limits<double>::infinity());
  StoredOperator matrix(file.path(), file.matrix, GetParam(), world);
  const std::vector<double> ones(static_cast<std::size_t>(matrix.own().count()), 1.0);
  std::vector<double> products(ones.size());
  EXPECT_THROW(matrix.multiply(ones.data(), 1, products.data()), ranks::AgreedError);
}

INSTANTIATE_TEST_SUITE_P(Rows, InMemoryOrNot, testing::Values(plenty, 1));

}  // namespace
}  // namespace hessian_mpi::solvers
