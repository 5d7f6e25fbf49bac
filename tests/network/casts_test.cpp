#include "casts.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

namespace hessian_mpi::network {
namespace {

const Casts narrowed({torch::kFloat64}, torch::kFloat32, /*kept=*/false);
const Casts wide({torch::kFloat32}, torch::kFloat64, /*kept=*/false);

TEST(CastsInEffect, ChangeTheDtypesThatANetworkNames) {
  const auto x = torch::ones(3, torch::kFloat32);
  {
    const CastsInEffect casts(narrowed);
    EXPECT_EQ(x.to(torch::kFloat64).scalar_type(), torch::kFloat32);
    EXPECT_EQ(torch::zeros(3, torch::kFloat64).scalar_type(), torch::kFloat32);
  }
  const CastsInEffect casts(wide);
  EXPECT_EQ(x.to(torch::kFloat64).to(torch::kHalf).scalar_type(), torch::kFloat64);
}

// The slope of rrelu is computed in tensors of float64, whatever it is applied to.
TEST(CastsInEffect, LeaveWhatOperatorsComputeInside) {
  const auto x = torch::linspace(-2, 2, 5, torch::kFloat32);
  const double lower = 0.125, upper = 0.375;
  const auto expected = torch::where(x < 0, 0.25 * x, x);
  const CastsInEffect casts(narrowed);
  EXPECT_TRUE(torch::equal(torch::rrelu(x, lower, upper), expected)) << torch::rrelu(x, lower, upper);
}

const Casts of_float64({torch::kFloat64}, torch::kFloat64, /*kept=*/false);
const Casts kept_of_float64({torch::kFloat64}, torch::kFloat64, /*kept=*/true);

TEST(Casts, OfBuffersAreMadeAsThoseOfTheCode) {
  EXPECT_EQ(of_float64.of_state(torch::kFloat32), torch::kFloat64);
  EXPECT_EQ(kept_of_float64.of_state(torch::kFloat32), torch::kFloat32);
  EXPECT_EQ(kept_of_float64.of_state(torch::kFloat64), torch::kFloat64);
  EXPECT_EQ(kept_of_float64.of_state(torch::kComplexFloat), torch::kComplexFloat);
  EXPECT_EQ(kept_of_float64.of_state(torch::kLong), torch::kLong);
  // Of the parameters' own dtype, which was converted.
  EXPECT_EQ(Casts({torch::kFloat32}, torch::kFloat64, /*kept=*/true).of_state(torch::kFloat32), torch::kFloat64);
}

std::string cure_of(const Casts& casts, const std::function<void()>& network) {
  const WidenedCasts widened;
  const CastsInEffect in_effect(casts);
  network();
  return widened.cure().value_or("");
}

TEST(WidenedCasts, NameWhatWouldHaveBeenNarrow) {
  const auto names = [](const std::string& cure) { return cure.substr(cure.find("): ") + 3); };
  EXPECT_EQ(names(cure_of(of_float64, [] { torch::arange(3, torch::kFloat32); })), "arange float32");
  const auto places = torch::arange(3, torch::kLong);
  EXPECT_EQ(names(cure_of(of_float64, [&] { places.to(torch::kFloat32); })), "to float32");
  const std::vector<NamedDtype> state{{"a", torch::kFloat32}, {"b", torch::kFloat64}, {"c", torch::kLong}};
  EXPECT_EQ(names(cure_of(of_float64, [&] { WidenedCasts::note(state, of_float64); })), "'a' of float32");
}

TEST(WidenedCasts, NameNothingThatIsTheSameInAnyDtype) {
  const auto mask = torch::ones(3, torch::kBool);
  EXPECT_EQ(cure_of(of_float64,
                    [&] {
                      torch::zeros(3, torch::kFloat32);
                      mask.to(torch::kFloat32);
                    }),
            "");
  // A loss without parameters has no dtype of its own.
  const Casts of_loss({}, torch::kFloat64, /*kept=*/false);
  const auto classes = torch::arange(3, torch::kLong);
  EXPECT_EQ(cure_of(of_loss,
                    [&] {
                      classes.to(torch::kFloat32);
                      WidenedCasts::note({{"weight", torch::kFloat32}}, of_loss);
                    }),
            "");
}

}  // namespace
}  // namespace hessian_mpi::network
