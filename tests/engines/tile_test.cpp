// Products of small factors against sums taken one by one, and their independence of what is computed beside them.

#include "hessian_mpi/engines/tile.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace hessian_mpi::engines {
namespace {

template <class Number>
std::vector<Number> random_numbers(std::int64_t count) {
  static std::mt19937 random(1);
  std::normal_distribution<double> any;
  std::vector<Number> numbers(static_cast<std::size_t>(count));
  for (auto& x : numbers) x = static_cast<Number>(any(random));
  return numbers;
}

TEST(Gather, HasZerosWhereThereIsNoPlace) {
  const auto numbers = random_numbers<float>(40);
  std::vector<std::int64_t> places;
  for (std::int64_t i = 0; i < 37; ++i) places.push_back(i % 5 == 3 ? -1 : i * 7 % 40);
  std::vector<float> found(places.size() + 1, 77);
  gather(numbers.data(), places.data(), 37, found.data());
  for (std::size_t i = 0; i < places.size(); ++i) {
    EXPECT_EQ(found[i], places[i] < 0 ? 0 : numbers[static_cast<std::size_t>(places[i])]) << i;
  }
  EXPECT_EQ(found.back(), 77);
}

template <class Number>
Strips<Number> strips_of(const std::vector<Number>& numbers, std::int64_t inner, std::int64_t columns) {
  Strips<Number> strips(inner, columns);
  for (std::int64_t k = 0; k < inner; ++k) {
    combine<Number>(columns, 1, numbers.data() + k * columns, 0, nullptr, strips, k, 0);
  }
  return strips;
}

struct Size {
  std::int64_t inner, rows, columns;
};
const std::vector<Size> sizes{{1, 1, 1},   {3, 2, 5},     {8, 6, 16},   {7, 13, 33},    {64, 5, 17},
                              {16, 44, 8}, {200, 31, 47}, {2, 70, 100}, {1500, 15, 200}};

template <class Number, class Out>
void expect_product(const Size& size, double tolerance) {
  const auto [inner, rows, columns] = size;
  const auto left = random_numbers<Number>(inner * rows);
  const auto right = random_numbers<Number>(inner * columns);
  const auto stride = columns + 3;
  std::vector<Out> out(static_cast<std::size_t>(rows * stride), Out{77});
  const auto strips = strips_of(right, inner, columns);
  multiply(Product<Number>{left.data(), rows, strips.factor()}, rows, out.data(), stride);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < stride; ++j) {
      double expected = j < columns ? 0 : 77;  // what lies beyond stays as it was
      for (std::int64_t k = 0; k < inner && j < columns; ++k) {
        expected += static_cast<double>(left[static_cast<std::size_t>(k * rows + i)]) *
                    static_cast<double>(right[static_cast<std::size_t>(k * columns + j)]);
      }
      ASSERT_NEAR(out[static_cast<std::size_t>(i * stride + j)], expected, tolerance * static_cast<double>(inner))
          << inner << ' ' << rows << ' ' << columns << " at " << i << ", " << j;
    }
  }
}

TEST(Tile, IsAProductInEveryPrecision) {
  for (const auto& size : sizes) {
    expect_product<float, float>(size, 1e-6);
    expect_product<double, double>(size, 1e-14);
    expect_product<double, float>(size, 1e-6);
    expect_product<float, double>(size, 1e-6);
  }
}

TEST(Tile, DoesNotDependOnTheRowsAskedForAtOnce) {
  const std::int64_t inner = 100;
  const std::int64_t rows = 40;
  const std::int64_t columns = 50;
  const auto left = random_numbers<float>(inner * rows);
  const auto right = strips_of(random_numbers<float>(inner * columns), inner, columns);
  std::vector<float> whole(rows * columns);
  multiply(Product<float>{left.data(), rows, right.factor()}, rows, whole.data(), columns);
  for (std::int64_t begin = 0; begin < rows; ++begin) {
    for (const std::int64_t count : {1, 2, 5, 6, 7, 19}) {
      if (begin + count > rows) continue;
      std::vector<float> piece(static_cast<std::size_t>(count * columns));
      multiply(Product<float>{left.data() + begin, rows, right.factor()}, count, piece.data(), columns);
      ASSERT_EQ(std::memcmp(piece.data(), whole.data() + begin * columns, piece.size() * sizeof(float)), 0)
          << count << " rows from " << begin;
    }
  }
}

TEST(Tile, MultipliesWithSomeRowsOfStrips) {
  const std::int64_t inner = 70;
  const std::int64_t rows = 15;
  const std::int64_t columns = 37;
  const auto left = random_numbers<float>(inner * rows);
  const auto right = random_numbers<float>(inner * columns);
  const auto all = strips_of(right, inner, columns);
  const auto some =
      strips_of(std::vector<float>(right.begin() + 30 * columns, right.begin() + 60 * columns), 30, columns);
  std::vector<float> expected(static_cast<std::size_t>(rows * columns));
  auto found = expected;
  multiply(Product<float>{left.data(), rows, some.factor()}, rows, expected.data(), columns);
  multiply(Product<float>{left.data(), rows, all.factor({30, 60})}, rows, found.data(), columns);
  EXPECT_EQ(found, expected);
}

TEST(Tile, AddsUpProductsOfNumbersInTheSamePlaces) {
  const std::vector<double> a{1, 2, -1, 3, 4, -1};  // two rows of three, of which two columns count
  const std::vector<double> b{5, 6, -1, 7, 8, -1};
  std::vector<double> sums{100, 200};
  add_up_products<double>({a.data(), b.data()}, 2, 3, sums);
  EXPECT_EQ(sums, (std::vector<double>{100 + 5 + 21, 200 + 12 + 32}));
}

TEST(Tile, AddsUpSeveralProductsOfFactorsThatLieInRowsToo) {
  const std::int64_t rows = 9;
  const std::int64_t columns = 37;
  const std::int64_t step = 41;
  const auto left = random_numbers<double>(5 * rows);
  const auto right = random_numbers<double>(5 * step + Strips<double>::width);
  const auto more_left = random_numbers<double>(3 * rows);
  const auto more_right = random_numbers<double>(3 * columns);
  const auto strips = strips_of(more_right, 3, columns);
  const std::vector<Product<double>> products{{left.data(), rows, rows_as_factor(right.data(), step, 5, columns)},
                                              {more_left.data(), rows, strips.factor()}};
  std::vector<double> out(rows * columns);
  multiply(std::span<const Product<double>>(products), rows, out.data(), columns);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      double expected = 0;
      const auto at = [](const auto& numbers, std::int64_t k) { return numbers[static_cast<std::size_t>(k)]; };
      for (std::int64_t k = 0; k < 5; ++k) expected += at(left, k * rows + i) * at(right, k * step + j);
      for (std::int64_t k = 0; k < 3; ++k) expected += at(more_left, k * rows + i) * at(more_right, k * columns + j);
      ASSERT_NEAR(at(out, i * columns + j), expected, 1e-13) << i << ' ' << j;
    }
  }
}

TEST(Tile, CombinesIntoStripsFromAnyColumnAsIntoAnArray) {
  const std::int64_t columns = 90;
  for (const std::int64_t begin : {0, 1, 15, 16, 17, 40}) {
    for (const std::int64_t count : {0, 1, 3, 16, 31, 48}) {
      const auto a = random_numbers<float>(count);
      const auto b = random_numbers<float>(count);
      Strips<float> strips = strips_of(std::vector<float>(2 * columns, 5.0F), 2, columns);
      combine<float>(count, 2, a.data(), -3, b.data(), strips, 1, begin);
      for (std::int64_t j = 0; j < columns; ++j) {
        const bool inside = j >= begin && j < begin + count;
        const auto i = static_cast<std::size_t>(j - begin);
        ASSERT_NEAR(*strips.at(1, j), inside ? 2 * a[i] - 3 * b[i] : 5, 1e-5) << begin << ' ' << count << ' ' << j;
        ASSERT_EQ(*strips.at(0, j), 5);
      }
    }
  }
}

TEST(Tile, CombinesRowsOfNeighboursAsOneByOne) {
  const std::int64_t rows = 5;
  const std::int64_t scales = 7;
  for (const std::int64_t count : {3, 16, 32, 40}) {
    const auto a = random_numbers<float>(rows * count);
    const auto b = random_numbers<float>(rows * count);
    const auto s = random_numbers<float>(rows * scales);
    const auto t = random_numbers<float>(rows * scales);
    for (const bool both : {false, true}) {
      Strips<float> together(rows, 3 * 48);
      combine<float>(rows, count, {s.data() + 2, scales, a.data(), count},
                     {t.data() + 2, scales, both ? b.data() : nullptr, count}, together.rows(0, 3, 48));
      for (std::int64_t n = 0; n < 3; ++n) {
        Strips<float> alone(rows, count);
        for (std::int64_t k = 0; k < rows; ++k) {
          const auto at = static_cast<std::size_t>(k * scales + 2 + n);
          combine<float>(count, s[at], a.data() + k * count, t[at], both ? b.data() + k * count : nullptr, alone, k, 0);
        }
        for (std::int64_t k = 0; k < rows; ++k) {
          for (std::int64_t j = 0; j < count; ++j) {
            ASSERT_EQ(*together.at(k, n * 48 + j), *alone.at(k, j)) << both << ' ' << count << ' ' << n << ' ' << j;
          }
        }
      }
    }
  }
}

template <class Number>
void expect_transposed(std::int64_t rows, std::int64_t columns) {
  const auto from_step = columns + 2;
  const auto to_step = rows + 3;
  const auto numbers = random_numbers<Number>(rows * from_step);
  std::vector<Number> found(static_cast<std::size_t>(columns * to_step), Number{77});
  transpose(numbers.data(), from_step, rows, columns, found.data(), to_step);
  for (std::int64_t j = 0; j < columns; ++j) {
    for (std::int64_t i = 0; i < to_step; ++i) {
      const auto expected = i < rows ? numbers[static_cast<std::size_t>(i * from_step + j)] : Number{77};
      ASSERT_EQ(found[static_cast<std::size_t>(j * to_step + i)], expected) << rows << " x " << columns;
    }
  }
}

TEST(Tile, TransposesAnySizes) {
  for (const std::int64_t rows : {0, 1, 5, 8, 16, 17, 50}) {
    for (const std::int64_t columns : {0, 1, 3, 4, 9, 32, 61}) {
      expect_transposed<float>(rows, columns);
      expect_transposed<double>(rows, columns);
    }
  }
}

TEST(Tile, AddsUpColumns) {
  const auto left = random_numbers<double>(6 * 10);
  std::vector<double> out(4);
  add_up(left.data() + 2, 10, 4, 6, out.data());
  for (std::size_t i = 0; i < out.size(); ++i) {
    double expected = 0;
    for (std::size_t k = 0; k < 6; ++k) expected += left[k * 10 + 2 + i];
    EXPECT_NEAR(out[i], expected, 1e-14);
  }
}

}  // namespace
}  // namespace hessian_mpi::engines
