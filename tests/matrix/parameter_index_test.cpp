#include "hessian_mpi/matrix/parameter_index.hpp"

#include <gtest/gtest.h>

namespace hessian_mpi::matrix {
namespace {

// The embedded example's parameters, with a scalar and two empty ones between them.
ParameterIndex example() {
  ParameterIndex index;
  index.append("conv1.weight", {32, 1, 3, 3});  // 0 .. 287
  index.append("nothing.at.first", {0, 7});     // none
  index.append("conv1.bias", {32});             // 288 .. 319
  index.append("scale", {});                    // 320
  index.append("nothing.later", {3, 0});        // none
  index.append("fc1.weight", {5, 4608});        // 321 .. 23360
  return index;
}

TEST(TextOfShape, ReadsLikePython) {
  EXPECT_EQ(text_of_shape({32, 1, 3, 3}), "[32, 1, 3, 3]");
  EXPECT_EQ(text_of_shape({5}), "[5]");
  EXPECT_EQ(text_of_shape({0, 7}), "[0, 7]");
  EXPECT_EQ(text_of_shape({}), "[]");
}

TEST(ParameterIndex, IsEmptyAtFirst) {
  EXPECT_EQ(ParameterIndex().size(), 0);
  EXPECT_TRUE(ParameterIndex().entries().empty());
}

TEST(ParameterIndex, PlacesParametersOneAfterTheOther) {
  const auto index = example();
  ASSERT_EQ(index.entries().size(), 6U);
  const std::vector<std::int64_t> offsets{0, 288, 288, 320, 321, 321};
  const std::vector<std::int64_t> sizes{288, 0, 32, 1, 0, 23040};
  for (std::size_t p = 0; p < offsets.size(); ++p) {
    EXPECT_EQ(index.entries()[p].offset, offsets[p]) << index.entries()[p].name;
    EXPECT_EQ(index.entries()[p].size, sizes[p]) << index.entries()[p].name;
  }
  EXPECT_EQ(index.size(), 23361);
  EXPECT_EQ(index.entries()[0].name, "conv1.weight");
  EXPECT_EQ(index.entries()[5].shape, (std::vector<std::int64_t>{5, 4608}));
}

TEST(ParameterIndex, CountsBeyond32Bits) {
  ParameterIndex index;
  index.append("a", {3'000'000'000});
  index.append("b", {100'000, 100'000});
  EXPECT_EQ(index.entries()[1].offset, 3'000'000'000);
  EXPECT_EQ(index.size(), 13'000'000'000);
  EXPECT_EQ(index.describe(12'999'999'999), "b[99999, 99999]");
}

TEST(ParameterIndex, LocatesTheFirstAndLastElementOfEveryParameter) {
  const auto index = example();
  struct Known {
    std::int64_t index;
    std::size_t parameter;
    std::int64_t element;
  };
  for (const auto& known : std::vector<Known>{
           {0, 0, 0}, {287, 0, 287}, {288, 2, 0}, {319, 2, 31}, {320, 3, 0}, {321, 5, 0}, {23360, 5, 23039}}) {
    const auto found = index.locate(known.index);
    EXPECT_EQ(found.parameter, known.parameter) << "index " << known.index;
    EXPECT_EQ(found.element, known.element) << "index " << known.index;
  }
}

TEST(ParameterIndex, LocatesEveryIndexInsideItsParameter) {
  const auto index = example();
  std::int64_t i = 0;
  for (std::size_t p = 0; p < index.entries().size(); ++p) {
    for (std::int64_t element = 0; element < index.entries()[p].size; ++element, ++i) {
      const auto found = index.locate(i);
      ASSERT_EQ(found.parameter, p) << "index " << i;
      ASSERT_EQ(found.element, element) << "index " << i;
    }
  }
  EXPECT_EQ(i, index.size());
}

TEST(ParameterIndex, NeverLocatesAnEmptyParameterAtTheBeginning) {
  ParameterIndex index;
  index.append("empty", {0});
  index.append("also.empty", {2, 0, 2});
  index.append("w", {2});
  index.append("empty.end", {0});
  EXPECT_EQ(index.locate(0).parameter, 2U);
  EXPECT_EQ(index.locate(1).parameter, 2U);
  EXPECT_EQ(index.locate(1).element, 1);
}

TEST(ParameterIndex, DescribesElementsInRowMajorOrder) {
  const auto index = example();
  EXPECT_EQ(index.describe(0), "conv1.weight[0, 0, 0, 0]");
  EXPECT_EQ(index.describe(5), "conv1.weight[0, 0, 1, 2]");
  EXPECT_EQ(index.describe(287), "conv1.weight[31, 0, 2, 2]");
  EXPECT_EQ(index.describe(290), "conv1.bias[2]");
  EXPECT_EQ(index.describe(320), "scale[]");
  EXPECT_EQ(index.describe(321 + 4608), "fc1.weight[1, 0]");
  EXPECT_EQ(index.describe(23360), "fc1.weight[4, 4607]");
}

TEST(MatchesAny, TakesShellPatterns) {
  EXPECT_TRUE(matches_any("conv1.weight", {"*"}));
  EXPECT_TRUE(matches_any("conv1.weight", {"conv1.weight"}));
  EXPECT_TRUE(matches_any("conv1.weight", {"conv?.weight"}));
  EXPECT_TRUE(matches_any("conv1.weight", {"conv[0-9].*"}));
  EXPECT_TRUE(matches_any("conv1.weight", {"*.weight"}));
}

TEST(MatchesAny, WantsTheWholeName) {
  EXPECT_FALSE(matches_any("conv1.weight", {"conv1"}));
  EXPECT_FALSE(matches_any("conv1.weight", {"weight"}));
  EXPECT_FALSE(matches_any("conv1.weight", {"conv[2-9].*"}));
  EXPECT_FALSE(matches_any("conv1.weight", {"conv1?weight?"}));
  EXPECT_FALSE(matches_any("conv1.weight", {"CONV1.*"}));
}

TEST(MatchesAny, TreatsADotLikeAnyCharacter) {
  EXPECT_TRUE(matches_any("block.0.fc.weight", {"block*weight"}));
  EXPECT_TRUE(matches_any("block.0.fc.weight", {"block?0?fc?weight"}));
  EXPECT_TRUE(matches_any(".hidden", {"*"}));
}

TEST(MatchesAny, NeedsOnePatternOfSeveral) {
  EXPECT_TRUE(matches_any("fc.bias", {"conv*", "fc.*"}));
  EXPECT_FALSE(matches_any("fc.bias", {"conv*", "fc.w*"}));
  EXPECT_FALSE(matches_any("fc.bias", {}));
}

}  // namespace
}  // namespace hessian_mpi::matrix
