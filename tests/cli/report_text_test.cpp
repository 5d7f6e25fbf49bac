#include "hessian_mpi/cli/report_text.hpp"

#include <gtest/gtest.h>

namespace hessian_mpi::cli {
namespace {

matrix::ParameterIndex index_of_two() {
  matrix::ParameterIndex index;
  index.append("conv.weight", {2, 3});
  index.append("fc.bias", {100});
  return index;
}

TEST(TextOfRows, NamesTheElements) {
  EXPECT_EQ(text_of_rows({0, 5, 7}, index_of_two()),
            "3 rows: 0 (conv.weight[0, 0]), 5 (conv.weight[1, 2]), 7 (fc.bias[1])");
  EXPECT_EQ(text_of_rows({105}, index_of_two()), "1 row: 105 (fc.bias[99])");
}

TEST(TextOfRows, NamesTheFirstOfMany) {
  std::vector<std::int64_t> rows(50);
  for (std::size_t k = 0; k < rows.size(); ++k) rows[k] = static_cast<std::int64_t>(6 + k);
  const auto told = text_of_rows(rows, index_of_two());
  EXPECT_EQ(told.rfind("50 rows: 6 (fc.bias[0]), 7 (fc.bias[1]), ", 0), 0U) << told;
  EXPECT_NE(told.find("10 (fc.bias[4]), ..."), std::string::npos) << told;
  EXPECT_EQ(told.find("fc.bias[5]"), std::string::npos) << told;
}

TEST(TextOfRows, LeavesNothingOutOfFive) {
  const auto told = text_of_rows({1, 2, 3, 4, 5}, index_of_two());
  EXPECT_NE(told.find("5 (conv.weight[1, 2])"), std::string::npos) << told;
  EXPECT_EQ(told.find("..."), std::string::npos) << told;
}

}  // namespace
}  // namespace hessian_mpi::cli
