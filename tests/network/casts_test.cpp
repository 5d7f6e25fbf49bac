#include "casts.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

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

}  // namespace
}  // namespace hessian_mpi::network
