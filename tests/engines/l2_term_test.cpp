#include "hessian_mpi/engines/l2_term.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <numeric>

namespace hessian_mpi::engines {
namespace {

constexpr std::int64_t columns = 5;

// Number j of row i is 10 i + j; that of row 0 and column 0 is a negative zero.
class CountingEngine final : public Engine {
 public:
  std::string name() const override { return "counting"; }
  std::int64_t rows_at_once() const override { return 3; }
  std::uint64_t bytes_per_row(std::int64_t) const override { return 7; }
  void compute(const Rows& rows, const Rows& /*columns*/, Precision storage, void* out,
               const std::function<void(double)>& advance) override {
    for (auto i = rows.begin; i < rows.end; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        const double number = i + j == 0 ? -0.0 : static_cast<double>(10 * i + j);
        const auto place = (i - rows.begin) * columns + j;
        if (storage == Precision::float32) {
          static_cast<float*>(out)[place] = static_cast<float>(number);
        } else {
          static_cast<double*>(out)[place] = number;
        }
      }
      advance(1);
    }
  }
};

template <class Number>
std::vector<Number> rows_with(double lambda, const Rows& rows) {
  CountingEngine counting;
  WithL2Term engine(counting, lambda);
  std::vector<Number> numbers(static_cast<std::size_t>(rows.count() * columns));
  double advanced = 0;
  engine.compute(rows, {0, columns}, sizeof(Number) == 4 ? Precision::float32 : Precision::float64, numbers.data(),
                 [&](double done) { advanced += done; });
  EXPECT_EQ(advanced, static_cast<double>(rows.count()));
  return numbers;
}

TEST(WithL2Term, AddsLambdaToTheDiagonalAlone) {
  EXPECT_EQ(rows_with<double>(0.5, {1, 3}), (std::vector<double>{10, 11.5, 12, 13, 14, 20, 21, 22.5, 23, 24}));
  EXPECT_EQ(rows_with<float>(0.5, {4, 5}), (std::vector<float>{40, 41, 42, 43, 44.5}));
}

TEST(WithL2Term, ChangesNoBitWhereThereIsNone) {
  EXPECT_TRUE(std::signbit(rows_with<double>(0, {0, 1})[0]));
  EXPECT_EQ(rows_with<double>(0, {1, 2}), (std::vector<double>{10, 11, 12, 13, 14}));
}

TEST(WithL2Term, IsElseTheEngineThatItWraps) {
  CountingEngine counting;
  const WithL2Term engine(counting, 1);
  EXPECT_EQ(engine.name(), "counting");
  EXPECT_EQ(engine.rows_at_once(), 3);
  EXPECT_EQ(engine.bytes_per_row(columns), 7U);
}

}  // namespace
}  // namespace hessian_mpi::engines
