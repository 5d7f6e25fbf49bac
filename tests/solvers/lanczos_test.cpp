#include "hessian_mpi/solvers/lanczos.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "hessian_mpi/solvers/spectral_density.hpp"
#include "hessian_mpi/solvers/stored_operator.hpp"
#include "known_matrix.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr std::uint64_t plenty = 1 << 26;

double sum(const std::vector<double>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0);
}

TEST(Lanczos, AllStepsGiveAllEigenvaluesOfEveryVector) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 30;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto found = lanczos(matrix, random_unit_vectors(matrix, 3, 1), 3, n + 5);
  EXPECT_LT(found.orthogonality_error, 1e-13);
  EXPECT_EQ(matrix.passes(), n);
  ASSERT_EQ(found.of_vectors.size(), 3U);
  for (const auto& [values, weights] : found.of_vectors) {
    ASSERT_EQ(values.size(), static_cast<std::size_t>(n));
    EXPECT_NEAR(sum(weights), 1, 1e-13);
    for (std::int64_t k = 0; k < n; ++k) {
      EXPECT_NEAR(values[static_cast<std::size_t>(k)], eigenvalue_of_differences(k, n), 1e-12);
    }
  }
}

// Without a file: a diagonal.
class Diagonal : public SymmetricOperator {
 public:
  Diagonal(std::int64_t n, const ranks::Communicator& world)
      : SymmetricOperator(n, {n * world.rank() / world.size(), n * (world.rank() + 1) / world.size()}, world) {}

 private:
  void apply(const double* own, std::int64_t count, double* products) override {
    for (std::int64_t v = 0, k = 0; v < count; ++v) {
      for (auto i = this->own().begin; i < this->own().end; ++i, ++k) {
        products[k] = static_cast<double>(i % 7) * own[k];
      }
    }
  }
};

TEST(Lanczos, KnowsOrthogonalVectorsOfMillionsOfEqualNumbers) {
  const auto world = ranks::Communicator::world();
  Diagonal matrix(3'000'000, world);
  EXPECT_LT(lanczos(matrix, random_unit_vectors(matrix, 1, 1), 1, 3).orthogonality_error, 1e-12);
}

TEST(Lanczos, EndsWhereTheKrylovSpaceDoesAndGoesOnWithOtherVectors) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 40;
  std::vector<double> numbers(n * n);
  for (std::int64_t i = 0; i < n; ++i) numbers[static_cast<std::size_t>(i * n + i)] = static_cast<double>(i % 4);
  const MatrixFile file(world, n, numbers);
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  auto starts = random_unit_vectors(matrix, 2, 1);
  for (std::int64_t i = 0; i < matrix.own().count(); ++i) {  // the first vector lies in one eigenspace
    starts[static_cast<std::size_t>(i)] = matrix.own().begin + i == 7 ? 1 : 0;
  }
  const auto found = lanczos(matrix, starts, 2, 20);
  ASSERT_EQ(found.of_vectors[0].values.size(), 1U);
  EXPECT_NEAR(found.of_vectors[0].values[0], 3, 1e-14);
  ASSERT_EQ(found.of_vectors[1].values.size(), 4U);
  for (std::size_t k = 0; k < 4; ++k) {
    EXPECT_NEAR(found.of_vectors[1].values[k], static_cast<double>(k), 1e-12);
    EXPECT_NEAR(found.of_vectors[1].weights[k], 0.25, 1e-12);
  }
}

TEST(Lanczos, FewStepsIntegratePolynomialsExactly) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 200;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto start = random_unit_vectors(matrix, 1, 3);
  const auto found = lanczos(matrix, start, 1, 4);
  std::vector<double> power = start;
  for (int degree = 1; degree <= 7; ++degree) {
    std::vector<double> next(power.size());
    matrix.multiply(power.data(), 1, next.data());
    power = next;
    const double own = std::inner_product(start.begin(), start.end(), power.begin(), 0.0);
    const double expected = world.sum(std::vector<double>{own})[0];
    double moment = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      moment += found.of_vectors[0].weights[k] * std::pow(found.of_vectors[0].values[k], degree);
    }
    EXPECT_NEAR(moment, expected, 1e-12 * std::abs(expected)) << degree;
  }
}

TEST(RandomSigns, AreTheSameWhateverTheNumberOfRanks) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 50;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto own = random_unit_vectors(matrix, 2, 9);
  std::vector<double> first(n);
  std::copy_n(own.begin(), matrix.own().count(), first.begin() + matrix.own().begin);
  first = world.sum(std::move(first));
  std::mt19937_64 random(9);
  for (const double number : first) EXPECT_DOUBLE_EQ(number, ((random() & 1) != 0 ? 1 : -1) / std::sqrt(50.0));
}

TEST(EstimatedNorm, IsThatOfTheMatrixToAFewPerCent) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 300;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const double norm = estimated_norm(matrix, 0);
  EXPECT_NEAR(norm, eigenvalue_of_differences(n - 1, n), 0.05 * norm);
}

double exact_density(double at, std::int64_t n, double sigma) {
  double density = 0;
  for (std::int64_t k = 0; k < n; ++k) {
    const double away = (at - eigenvalue_of_differences(k, n)) / sigma;
    density += std::exp(-0.5 * away * away) / (sigma * std::sqrt(2 * std::numbers::pi));
  }
  return density / static_cast<double>(n);
}

TEST(SpectralDensity, IsTheExactOneWithinItsErrors) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 300;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto found = spectral_density(matrix, {20, 80, 0.05, 4});
  EXPECT_EQ(matrix.passes(), 80);
  EXPECT_LT(found.orthogonality_error, 1e-12);
  double integral = 0;
  double squares = 0;
  for (std::size_t k = 0; k < found.grid.size(); ++k) {
    const double away = found.density[k] - exact_density(found.grid[k], n, 0.05);
    squares += std::pow(away / (found.error[k] + 1e-6), 2) / static_cast<double>(found.grid.size());
    EXPECT_LE(std::abs(away), 5 * found.error[k] + 1e-6) << "at " << found.grid[k];
    integral += found.density[k] * (found.grid[1] - found.grid[0]);
  }
  EXPECT_NEAR(integral, 1, 1e-5);
  // Errors neither too large nor too small: their ratio to what is off is about one.
  EXPECT_GT(squares, 0.1);
  EXPECT_LT(squares, 4);
  EXPECT_NEAR(found.mean_eigenvalue, 2, 5 * found.mean_error);
}

TEST(DensityOf, OneEigenvalueIsAGaussian) {
  const auto found = density_of({{{3.0}, {1.0}}, {{3.0}, {1.0}}}, 0.5, 1);
  for (std::size_t k = 0; k < found.grid.size(); ++k) {
    const double away = (found.grid[k] - 3) / 0.5;
    EXPECT_NEAR(found.density[k], std::exp(-0.5 * away * away) / (0.5 * std::sqrt(2 * std::numbers::pi)), 1e-12);
    EXPECT_EQ(found.error[k], 0);
  }
}

}  // namespace
}  // namespace hessian_mpi::solvers
