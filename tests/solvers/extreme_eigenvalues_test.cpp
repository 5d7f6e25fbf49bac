#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "hessian_mpi/solvers/stored_operator.hpp"
#include "known_matrix.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr std::uint64_t plenty = 1 << 26;

TEST(ExtremeEigenvalues, OfSecondDifferencesAreTheirFormula) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 120;
  const MatrixFile file(world, n, second_differences(n));
  for (const std::uint64_t memory : {plenty, std::uint64_t{1}}) {
    StoredOperator matrix(file.path(), file.matrix, memory, world);
    for (const auto end : {End::largest, End::smallest}) {
      std::int64_t told = 0;
      const auto found = extreme_eigenvalues(matrix, {end, 4, 1e-10, 4, 0}, [&](std::int64_t converged, std::int64_t) {
        told = std::max(told, converged);
      });
      ASSERT_EQ(found.values.size(), 4U);
      ASSERT_EQ(found.vectors.size(), static_cast<std::size_t>(4 * matrix.own().count()));
      EXPECT_GE(told, 4);
      EXPECT_GT(found.passes, 4);
      for (std::int64_t k = 0; k < 4; ++k) {
        const auto of_all = end == End::largest ? n - 1 - k : k;
        EXPECT_NEAR(found.values[static_cast<std::size_t>(k)], eigenvalue_of_differences(of_all, n), 1e-9);
        EXPECT_LE(found.residuals[static_cast<std::size_t>(k)], 8e-10);
        for (std::int64_t i = 0; i < matrix.own().count(); ++i) {
          const auto along = static_cast<double>((matrix.own().begin + i + 1) * (of_all + 1)) / (n + 1);
          const double sine = std::sqrt(2.0 / (n + 1)) * std::sin(std::numbers::pi * along);
          EXPECT_NEAR(std::abs(found.vectors[static_cast<std::size_t>(k * matrix.own().count() + i)]), std::abs(sine),
                      1e-5);
        }
      }
    }
  }
}

// As many nearly equal ones as a convolution has channels, at the edge of a bulk.
TEST(ExtremeEigenvalues, MayBeACluster) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 800;
  constexpr std::int64_t cluster = 40;
  const auto value_of = [](std::int64_t i) {
    return i < cluster ? -1 - 1e-3 * static_cast<double>(cluster - i) / cluster
                       : -0.99 + 60 * std::pow(static_cast<double>(i - cluster) / (n - cluster), 3);
  };
  std::vector<double> numbers(n * n);
  for (std::int64_t i = 0; i < n; ++i) numbers[static_cast<std::size_t>(i * (n + 1))] = value_of(i);
  const MatrixFile file(world, n, numbers);
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto found = extreme_eigenvalues(matrix, {End::smallest, 5, 1e-8, 60, 0});
  ASSERT_EQ(found.values.size(), 5U);
  for (std::int64_t k = 0; k < 5; ++k) {
    EXPECT_LE(found.residuals[static_cast<std::size_t>(k)], 6e-7);
    EXPECT_NEAR(found.values[static_cast<std::size_t>(k)], value_of(k), 1e-4) << k;
  }
}

TEST(ExtremeEigenvalues, AreFoundWithAsManyVectorsAsThereIsMemoryFor) {
  constexpr std::int64_t n = 400;
  EXPECT_EQ(vectors_kept({.count = 5}, 10'000), 505);
  EXPECT_EQ(vectors_kept({.count = 5, .most_vectors = 100}, 10'000), 100);
  EXPECT_EQ(vectors_kept({.count = 5, .most_vectors = 1}, 10'000), 15);
  EXPECT_EQ(vectors_kept({.count = 5}, n), n);
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto found = extreme_eigenvalues(matrix, {.count = 5, .norm = 4, .most_vectors = 1});
  for (std::int64_t k = 0; k < 5; ++k) {
    EXPECT_NEAR(found.values[static_cast<std::size_t>(k)], eigenvalue_of_differences(n - 1 - k, n), 1e-7) << k;
  }
}

TEST(ExtremeEigenvalues, CanBeAll) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 9;
  const MatrixFile file(world, n, second_differences(n));
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  const auto found = extreme_eigenvalues(matrix, {End::smallest, n, 1e-10, 4, 0});
  for (std::int64_t k = 0; k < n; ++k) {
    EXPECT_NEAR(found.values[static_cast<std::size_t>(k)], eigenvalue_of_differences(k, n), 1e-9);
  }
}

TEST(ExtremeEigenvalues, ThrowWhatAProductThrowsOnAllRanks) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 30;
  const MatrixFile file(world, n, second_differences(n));
  file.damage(3, 20, std::numeric_limits<double>::quiet_NaN());
  StoredOperator matrix(file.path(), file.matrix, plenty, world);
  try {
    extreme_eigenvalues(matrix, {End::largest, 2, 1e-8, 4, 0});
    ADD_FAILURE() << "no error";
  } catch (const ranks::AgreedError& error) {
    EXPECT_NE(std::string(error.what()).find("not finite"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hessian_mpi::solvers
