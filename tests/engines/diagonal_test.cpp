#include "hessian_mpi/engines/diagonal.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace hessian_mpi::engines {
namespace {

// Number (i, j) of a matrix: 1000 i + j.
class CountingEngine final : public Engine {
 public:
  std::string name() const override { return "counting"; }
  std::int64_t rows_at_once() const override { return 3; }
  std::uint64_t bytes_per_row(std::int64_t columns) const override { return static_cast<std::uint64_t>(columns); }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override {
    widest = std::max(widest, columns.count());
    for (auto i = rows.begin; i < rows.end; ++i, advance(1)) {
      for (auto j = columns.begin; j < columns.end; ++j) {
        const auto place = (i - rows.begin) * columns.count() + j - columns.begin;
        const auto number = static_cast<double>(1000 * i + j);
        if (storage == Precision::float32) {
          static_cast<float*>(out)[place] = static_cast<float>(number);
        } else {
          static_cast<double*>(out)[place] = number;
        }
      }
    }
  }
  std::int64_t widest = 0;
};

template <class Number>
void expect_diagonal(Precision storage, const Rows& rows) {
  CountingEngine counting;
  Diagonal diagonal(counting);
  std::vector<Number> numbers(static_cast<std::size_t>(rows.count()) + 1, Number{-1});
  double advanced = 0;
  diagonal.compute(rows, {0, 1}, storage, numbers.data(), [&](double done) { advanced += done; });
  EXPECT_EQ(advanced, static_cast<double>(rows.count()));
  for (auto i = rows.begin; i < rows.end; ++i) {
    EXPECT_EQ(numbers[static_cast<std::size_t>(i - rows.begin)], static_cast<Number>(1001 * i));
  }
  EXPECT_EQ(numbers.back(), Number{-1}) << "nothing is written behind";
  EXPECT_LE(counting.widest, 64) << "the squares are small";
}

TEST(Diagonal, IsThatOfTheRows) {
  expect_diagonal<float>(Precision::float32, {5, 6});
  expect_diagonal<float>(Precision::float32, {0, 64});
  expect_diagonal<double>(Precision::float64, {7, 300});
}

TEST(Diagonal, IsElseTheEngineThatItWraps) {
  CountingEngine counting;
  const Diagonal diagonal(counting);
  EXPECT_EQ(diagonal.name(), "counting");
  EXPECT_EQ(diagonal.rows_at_once(), 3);
  EXPECT_EQ(diagonal.bytes_per_row(1'000'000), 64 + 64 * sizeof(double)) << "of a row of a square";
}

}  // namespace
}  // namespace hessian_mpi::engines
