#pragma once
/// Derivatives along a line against differences of what they are derivatives of, at steps that suit the noise of both.
/// Knows no network.

#include <functional>
#include <vector>

#include "hessian_mpi/file/check_figures.hpp"

namespace hessian_mpi::run {

/// Numbers at a place of a line, by its distance from the point: always as many, NaN where there are none.
using Function = std::function<std::vector<double>(double)>;

/// What evaluation adds to each number: the standard deviation of its rounding errors near the point. From differences
/// of fourth order between places at this spacing, which leave nothing of a smooth function (Moré and Wild, Estimating
/// computational noise, 2011); at least what the numbers are rounded to, such as float32. Of both
/// sides of the point, or the one that is far less noisy, so that a jump at it is no noise.
std::vector<double> noise(const Function& f, double spacing);
/// A spacing that rounding to float32 changes, for parameters of this length.
double noise_spacing(double length);

struct Derivative {
  std::vector<double> numbers;
  std::function<std::vector<double>()> noise;  ///< of the numbers themselves; called where they differ
};

/// The step is the cube root of float64's precision times the length of the parameters, where truncation and rounding
/// of a central difference balance; where that agrees the check has passed. Else steps down to a thousandth, for kinks
/// nearby, and, extrapolated, up to ten thousand times as much, for noise. The error is the largest difference divided
/// by the largest number, or by scale if that is more. The tolerance grows with the noise, to a tenth at most.
///   kinks     forward and backward differences contradict each other the more, the smaller the step
///   failed    the difference is more than noise explains; numbers are not finite
///   rounding  noise may hide a difference of a tenth and more
file::CheckFigure compare(const Derivative& derivative, const Function& f, double length, double scale,
                          double tolerance);

}  // namespace hessian_mpi::run
