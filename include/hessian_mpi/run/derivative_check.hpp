#pragma once
/// Derivatives along a line against differences of what they are derivatives of, at steps that suit the noise of both.
/// Knows no network.

#include <functional>
#include <vector>

#include "hessian_mpi/file/check_figures.hpp"

namespace hessian_mpi::run {

/// Numbers at a place of a line, by its distance from the point: always as many, NaN where there are none.
using Function = std::function<std::vector<double>(double)>;

/// What distances along a line have to suit.
struct Ruler {
  double length;   ///< of the parameters
  double epsilon;  ///< of the narrowest numbers that are computed with
};

/// What evaluation adds to each number: the standard deviation of its rounding errors near the point. From differences
/// of fourth order between places at this spacing, which leave nothing of a smooth function (Moré and Wild, Estimating
/// computational noise, 2011); at least what the numbers are rounded to, such as float32. Of both
/// sides of the point, or the one that is far less noisy, so that a jump at it is no noise.
std::vector<double> noise(const Function& f, double spacing);
/// A spacing that rounding changes, to float32 at least.
double noise_spacing(const Ruler& ruler);

struct Derivative {
  std::vector<double> numbers;
  std::function<std::vector<double>()> noise;  ///< of the numbers themselves; called where they differ
  /// What may be lost of the numbers or of f (lost_digits()); called where noise is too little.
  std::function<double()> lost = [] { return 0.0; };
  /// The numbers elsewhere on the line, where these can be derived; called where all else fails.
  Function at = {};
};

/// The step is the cube root of float64's precision times the length of the parameters, where truncation and rounding
/// of a central difference balance; where that agrees the check has passed. Else steps down to a thousandth, for kinks
/// nearby, and, extrapolated, up to ten thousand times as much, for noise. The error is the largest difference divided
/// by the largest number, or by scale if that is more. The tolerance grows with the noise, to a tenth at most.
///   kinks     forward and backward differences contradict each other the more, the smaller the step; or the derivative
///             is right on both sides of the point, and not at it
///   failed    the difference is more than noise explains; numbers are not finite
///   rounding  noise may hide a difference of a tenth and more
/// ruler: of f.
file::CheckFigure compare(const Derivative& derivative, const Function& f, const Ruler& ruler, double scale,
                          double tolerance);

double epsilon_of(Precision precision);
/// By what share of themselves losses of the same function may differ where this epsilon is the coarser one of both,
/// whatever their noise is.
double rounding_of_losses(double epsilon);
/// Numbers of this epsilon do not agree better, whatever their noise is: an input that is cast to half is another one.
double at_least_rounding(double tolerance, double epsilon);

/// What rounding takes from numbers that are small beside what they are made of: the loss of confident predictions is
/// log(1 + 1e-21), which is 0 at all places nearby, so that noise does not show it. Told by their size at parameters
/// nearer to zero, where predictions are less confident. at: the numbers at this share of all parameters.
double lost_digits(const Function& at, double epsilon);
/// The same of differences of what is evaluated in float64, for parameters of this length.
double lost_by_differences(const Function& at, double length);

}  // namespace hessian_mpi::run
