#include "hessian_mpi/after/matrix_product.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "matrix_file.hpp"

namespace hessian_mpi::after {
namespace {

// Parameters of widths that no register and no panel of columns divides.
matrix::ParameterIndex uneven_index() {
  matrix::ParameterIndex index;
  index.append("a", {5});
  index.append("wide", {1, 2051});
  index.append("nothing", {0});
  index.append("scalar", {});
  index.append("b", {7, 3});
  return index;
}

// H_ij = (i + 1) (j + 2) / n^2 but for one entry, so that products and norms have closed forms; its numbers and those
// of the vectors are rounded as float32 rounds them.
constexpr std::int64_t odd_row = 2060;
constexpr std::int64_t odd_column = 1500;
constexpr double odd_number = -1000;

double entry(std::int64_t i, std::int64_t j, std::int64_t n) {
  if (i == odd_row && j == odd_column) return odd_number;
  return static_cast<float>(static_cast<double>((i + 1) * (j + 2)) / static_cast<double>(n * n));
}
double of_vector(std::int64_t v, std::int64_t j) {
  return std::cos(static_cast<double>(j * (v + 1)));
}

std::vector<double> entries(const Rows& rows, std::int64_t n) {
  std::vector<double> numbers;
  for (auto i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = 0; j < n; ++j) numbers.push_back(entry(i, j, n));
  }
  return numbers;
}

std::vector<double> vectors_of(std::int64_t count, std::int64_t n) {
  std::vector<double> vectors;
  for (std::int64_t v = 0; v < count; ++v) {
    for (std::int64_t j = 0; j < n; ++j) vectors.push_back(of_vector(v, j));
  }
  return vectors;
}

double product(std::int64_t row, std::int64_t v, std::int64_t n) {
  double sum = 0;
  for (std::int64_t j = 0; j < n; ++j) sum += entry(row, j, n) * of_vector(v, j);
  return sum;
}

void expect_products(const std::vector<double>& found, std::int64_t count, const Rows& rows, std::int64_t n) {
  ASSERT_EQ(found.size(), static_cast<std::size_t>(count * rows.count()));
  for (std::int64_t v = 0; v < count; ++v) {
    for (auto i = rows.begin; i < rows.end; i += i + 97 < rows.end - 5 ? 97 : 1) {  // and all of the last few
      const auto place = static_cast<std::size_t>(v * rows.count() + i - rows.begin);
      EXPECT_NEAR(found[place], product(i, v, n), 1e-9) << "row " << i << ", vector " << v;
    }
  }
}

// Norm of a block, from its definition.
double block_norm(const matrix::ParameterEntry& p, const matrix::ParameterEntry& q, const Rows& rows, std::int64_t n) {
  double squares = 0;
  for (auto i = std::max(p.offset, rows.begin); i < std::min(p.offset + p.size, rows.end); ++i) {
    for (auto j = q.offset; j < q.offset + q.size; ++j) squares += entry(i, j, n) * entry(i, j, n);
  }
  return std::sqrt(squares);
}

void expect_figures(const MatrixFigures& found, const matrix::ParameterIndex& index, const Rows& rows) {
  const auto n = index.size();
  double trace = 0;
  double squares = 0;
  for (auto i = rows.begin; i < rows.end; ++i) trace += entry(i, i, n);
  const auto count = index.entries().size();
  ASSERT_EQ(found.block_norms.size(), count * count);
  for (std::size_t p = 0; p < count; ++p) {
    for (std::size_t q = 0; q < count; ++q) {
      const double expected = block_norm(index.entries()[p], index.entries()[q], rows, n);
      EXPECT_NEAR(found.block_norms[p * count + q], expected, 1e-12 * (1 + expected)) << p << ", " << q;
      squares += expected * expected;
    }
  }
  EXPECT_NEAR(found.trace, trace, 1e-9);
  EXPECT_NEAR(found.frobenius_norm, std::sqrt(squares), 1e-9);
}

TEST(MatrixProduct, IsHTimesAnyNumberOfVectorsWithFiguresAndWithout) {
  const auto world = ranks::Communicator::world();
  const auto index = uneven_index();
  const auto n = index.size();
  const Rows all{0, n};
  const auto numbers = entries(all, n);
  for (const auto storage : {Precision::float32, Precision::float64}) {
    const MatrixFile file(world, index, storage, numbers);
    MatrixProduct matrix(file.path(), file.matrix, file::rows_of_rank(file.matrix, world.rank(), world.size()));
    for (const std::int64_t count : {0, 1, 2, 3, 4, 5, 9}) {
      const auto vectors = vectors_of(count, n);
      const auto own = matrix.times(vectors, count);
      expect_products(own, count, matrix.own(), n);
      expect_products(whole_product(own, count, file.matrix, world), count, all, n);
      MatrixSums sums(index);
      expect_products(matrix.times(vectors, count, sums), count, matrix.own(), n);
      expect_figures(sums.all(world), index, all);
    }
  }
}

// Bit by bit: neither ranks nor slabs may show in a product.
TEST(MatrixProduct, OfARowIsTheSameAmongAnyRows) {
  const auto world = ranks::Communicator::world();
  const auto index = uneven_index();
  const auto n = index.size();
  const MatrixFile file(world, index, Precision::float32, {0, 11}, entries({0, 11}, n));
  for (const std::int64_t count : {1, 4, 5}) {
    const auto vectors = vectors_of(count, n);
    const auto all = MatrixProduct(file.path(), file.matrix, {0, 11}).times(vectors, count);
    for (const auto& rows : {Rows{0, 6}, Rows{6, 8}, Rows{8, 11}}) {
      const auto some = MatrixProduct(file.path(), file.matrix, rows).times(vectors, count);
      for (std::int64_t k = 0; k < count * rows.count(); ++k) {
        const auto place = k / rows.count() * 11 + rows.begin + k % rows.count();
        EXPECT_EQ(some[static_cast<std::size_t>(k)], all[static_cast<std::size_t>(place)]);
      }
    }
  }
}

TEST(MatrixProduct, OfAPartHasItsRows) {
  const auto world = ranks::Communicator::world();
  const auto index = uneven_index();
  const auto n = index.size();
  const Rows part{1990, 2065};
  const MatrixFile file(world, index, Precision::float64, part, entries(part, n));
  MatrixProduct matrix(file.path(), file.matrix, file::rows_of_rank(file.matrix, world.rank(), world.size()));
  MatrixSums sums(index);
  std::int64_t visited = 0;
  const auto own = matrix.times(vectors_of(1, n), 1, sums, [&](std::int64_t rows) { visited += rows; });
  EXPECT_EQ(visited, matrix.own().count());
  expect_products(whole_product(own, 1, file.matrix, world), 1, part, n);
  expect_figures(sums.all(world), index, part);
}

TEST(MatrixSums, ShowNumbersThatAreNotFinite) {
  const auto world = ranks::Communicator::world();
  auto numbers = symmetric_numbers(30);
  numbers[31] = std::nan("");
  const MatrixFile file(world, 30, numbers);
  matrix::ParameterIndex index;
  index.append("weight", {30});
  MatrixProduct matrix(file.path(), file.matrix, file::rows_of_rank(file.matrix, world.rank(), world.size()));
  MatrixSums sums(index);
  matrix.times({}, 0, sums);
  const auto figures = sums.all(world);
  EXPECT_TRUE(std::isnan(figures.frobenius_norm));
  EXPECT_TRUE(std::isnan(figures.trace));
}

}  // namespace
}  // namespace hessian_mpi::after
