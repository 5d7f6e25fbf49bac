// Derivatives against differences, of functions that are written down: what agrees, what doesn't, what a kink is taken
// for, and what noise.

#include "hessian_mpi/run/derivative_check.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <random>

namespace hessian_mpi::run {
namespace {

using Scalar = std::function<double(double)>;

constexpr double epsilon = std::numeric_limits<double>::epsilon();

Function function_of(const Scalar& f) {
  return [f](double distance) { return std::vector<double>{f(distance)}; };
}

// A derivative at 0 that has no noise of its own.
file::CheckFigure compared(double derived, const Scalar& f, double noise_of_derived = 0) {
  return compare({{derived}, [=] { return std::vector<double>{noise_of_derived}; }}, function_of(f), {1, epsilon}, 0,
                 1e-4);
}

// With normal noise of this size: at each place always the same.
Scalar noisy(const Scalar& f, double size) {
  return [=](double x) {
    std::mt19937_64 random(std::hash<double>()(x));
    return f(x) + size * std::normal_distribution<double>()(random);
  };
}

double sine(double x) {
  return std::sin(x + 0.3);
}

TEST(Compare, AgreesWithTheDerivativeOfASmoothFunction) {
  const auto found = compared(std::cos(0.3), sine);
  EXPECT_EQ(found.outcome, file::CheckOutcome::passed);
  EXPECT_LE(found.error, 1e-9);
  EXPECT_EQ(found.tolerance, 1e-4);
}

TEST(Compare, FailsWhereADerivativeIsWrong) {
  const auto found = compared(0.9 * std::cos(0.3), sine);
  EXPECT_EQ(found.outcome, file::CheckOutcome::failed);
  EXPECT_NEAR(found.error, 0.1, 1e-6);
  EXPECT_EQ(found.tolerance, 1e-4);
}

TEST(Compare, TakesAJumpForAKink) {
  const auto jump_at = [](double place) { return [=](double x) { return x > place ? 2.0 + x : 1.0 + x; }; };
  EXPECT_EQ(compared(1, jump_at(0)).outcome, file::CheckOutcome::kinks);
  EXPECT_EQ(compared(1, jump_at(-1e-12)).outcome, file::CheckOutcome::kinks) << "nearer than the smallest step";
  EXPECT_EQ(compared(1, jump_at(1e-7)).outcome, file::CheckOutcome::passed) << "a smaller step passes by";
  EXPECT_EQ(compared(1, jump_at(1)).outcome, file::CheckOutcome::passed) << "far from it";
  EXPECT_EQ(compared(1, [](double x) { return std::abs(x); }).outcome, file::CheckOutcome::kinks);
}

TEST(Compare, TakesNoMinimumForAKink) {
  // The slope is less than what the curvature makes of it within the first step.
  const auto valley = [](double x) { return 1 + 1e-9 * x + x * x + 3 * x * x * x; };
  EXPECT_EQ(compared(1e-9, valley).outcome, file::CheckOutcome::passed);
  EXPECT_EQ(compared(3e-9, valley).outcome, file::CheckOutcome::failed);
  EXPECT_EQ(compared(1e-14, [](double x) { return 1 + x * x; }).outcome, file::CheckOutcome::rounding);
}

TEST(Compare, SuitsItsStepToTheNoise) {
  EXPECT_EQ(compared(std::cos(0.3), noisy(sine, 1e-7)).outcome, file::CheckOutcome::passed);
  EXPECT_EQ(compared(0.9 * std::cos(0.3), noisy(sine, 1e-7)).outcome, file::CheckOutcome::failed);
  const auto in_float32 = [](double x) { return static_cast<double>(static_cast<float>(sine(x))); };
  EXPECT_EQ(compared(std::cos(0.3), in_float32).outcome, file::CheckOutcome::passed);
  EXPECT_EQ(compared(0.9 * std::cos(0.3), in_float32).outcome, file::CheckOutcome::failed);
}

TEST(Compare, SaysWhereNoiseHidesAWrongDerivative) {
  const auto loud = compared(0.9 * std::cos(0.3), noisy(sine, 0.1));
  EXPECT_EQ(loud.outcome, file::CheckOutcome::rounding);
  EXPECT_GT(loud.tolerance, 0.1);
  EXPECT_EQ(compared(
                1.05e-6, [](double x) { return 1e-6 * x; }, 1e-7)
                .outcome,
            file::CheckOutcome::rounding)
      << "of the derivative itself";
}

TEST(Compare, NumbersThatAreNotFiniteFail) {
  EXPECT_EQ(compared(1, [](double x) { return std::sqrt(x); }).outcome, file::CheckOutcome::failed);
  EXPECT_EQ(compared(std::nan(""), [](double x) { return x; }).outcome, file::CheckOutcome::failed);
}

TEST(Compare, PassesWhereOnlyLargeStepsLeaveTheDomain) {
  EXPECT_EQ(compared(0.5 / std::sqrt(1e-5), [](double x) { return std::sqrt(1e-5 + x); }).outcome,
            file::CheckOutcome::passed);
}

TEST(Compare, MeasuresByTheLargestNumber) {
  const auto two = [](double x) { return std::vector<double>{100 * x, 0}; };
  const auto quiet = [] { return std::vector<double>{0, 0}; };
  EXPECT_NEAR(compare({{100, 0.001}, quiet}, two, {1, epsilon}, 0, 1e-4).error, 1e-5, 1e-9);
  EXPECT_NEAR(compare({{100, 0.1}, quiet}, two, {1, epsilon}, 1000, 1e-3).error, 1e-4, 1e-9) << "or by what it is told";
}

TEST(Noise, IsMeasuredWhateverTheFunction) {
  for (const double size : {1e-12, 1e-7, 1e-3}) {
    double squares = 0;
    constexpr int lines = 50;
    for (int k = 0; k < lines; ++k) {
      const auto f = noisy([k](double x) { return std::exp(x + 0.1 * k); }, size);
      const double found = noise(function_of(f), noise_spacing({1, epsilon})).front();
      EXPECT_GE(found, size / 10);
      EXPECT_LE(found, size * 5);
      squares += found * found;
    }
    EXPECT_NEAR(std::sqrt(squares / lines) / size, 1, 0.5);
  }
}

TEST(Noise, IsThatOfFloat32WhereNumbersAreOfFloat32) {
  const auto constant = [](double x) { return static_cast<double>(static_cast<float>(std::numbers::pi + 1e-9 * x)); };
  EXPECT_NEAR(noise(function_of(constant), noise_spacing({1, epsilon})).front() / std::ldexp(1.0, -22), 0.3, 0.1);
}

TEST(Noise, IsMeasuredAtDistancesThatNarrowNumbersTell) {
  constexpr double half = 1.0 / 1024;
  const auto rounded = [](double x) { return 3 * std::round((1.3 + 0.237 * x) / half) * half + 1e-9 * x; };
  EXPECT_NEAR(noise(function_of(rounded), noise_spacing({10, half})).front() / half, 0.9, 0.5);
}

TEST(LostDigits, AreThoseOfWhatNumbersAreMadeOf) {
  // At 1 the loss is 0, and so are all differences of it; its derivative is not.
  const auto loss = [](double share) { return std::vector<double>{std::log(1 + std::exp(-50 * share))}; };
  const double lost = lost_by_differences(loss, 1);
  EXPECT_GT(lost, 1e-17);
  EXPECT_LT(lost, 1e-12);
  const auto found = [&](double derivative) {
    return compare(
        {{derivative}, [] { return std::vector<double>{0}; }, [=] { return lost; }},
        [&](double x) { return loss(1 + x); }, {1, epsilon}, 0, 1e-4);
  };
  EXPECT_EQ(found(-50 * std::exp(-50)).outcome, file::CheckOutcome::rounding);
  EXPECT_EQ(found(-1e-9).outcome, file::CheckOutcome::failed) << "more than what is lost";
}

TEST(Noise, IsNoJumpAtThePoint) {
  const auto jump = [](double x) { return x < 0 ? std::exp(x) : 2 + std::exp(x); };
  EXPECT_LE(noise(function_of(jump), noise_spacing({1, epsilon})).front(), 1e-14);
}

}  // namespace
}  // namespace hessian_mpi::run
