#pragma once
/// What the checks of a written file have found, as plain numbers, and what it may be at most. No dependencies.

#include <cstdint>
#include <limits>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::file {

/// How a check ended. kinks: two sides of the point contradict each other, as at ReLU and max-pool, so that there is
/// nothing to compare with. rounding: evaluation itself leaves more than the difference. In the order of their weight.
enum class CheckOutcome { not_made, passed, rounding, kinks, failed };

constexpr CheckOutcome outcomes[] = {CheckOutcome::not_made, CheckOutcome::passed, CheckOutcome::rounding,
                                     CheckOutcome::kinks, CheckOutcome::failed};

/// The outcome as files and people read it.
constexpr const char* name_of(CheckOutcome outcome) {
  switch (outcome) {
    case CheckOutcome::passed:
      return "passed";
    case CheckOutcome::rounding:
      return "rounding";
    case CheckOutcome::kinks:
      return "kinks";
    case CheckOutcome::failed:
      return "failed";
    default:
      return "not made";
  }
}

/// One check: a relative error, what it may be at most, and what came of it. NaN where it was not made.
struct CheckFigure {
  double error = std::numeric_limits<double>::quiet_NaN();
  double tolerance = std::numeric_limits<double>::quiet_NaN();
  CheckOutcome outcome = CheckOutcome::not_made;
};

struct CheckFigures {
  std::int64_t blocks_checked = 0;  ///< read back and compared with their checksums
  std::int64_t blocks = 0;
  CheckFigure symmetry;
  CheckFigure row;         ///< rows derived again
  CheckFigure gradient;    ///< against differences of the loss
  CheckFigure difference;  ///< H v against differences of the gradient
};

/// Every check of numbers with the name that it has in files: "symmetry" for the attribute symmetry_error.
struct NamedFigure {
  const char* name;
  CheckFigure CheckFigures::*figure;
};
constexpr NamedFigure named_figures[] = {{"symmetry", &CheckFigures::symmetry},
                                         {"row", &CheckFigures::row},
                                         {"gradient", &CheckFigures::gradient},
                                         {"difference", &CheckFigures::difference}};

/// Rows and entries that are small by chance: their errors are measured by this share of the largest |H_ij| at least.
constexpr double floor_of_scale = 1e-2;

/// What errors of first and second derivatives may be at most, against central differences.
struct DifferenceTolerances {
  double gradient;
  double hessian;
};

/// Above these a run has failed: rounding alone does not reach them.
struct Tolerances {
  double symmetry;
  double row;
  DifferenceTolerances difference;
};
/// Where rounding is measured to be more than that, a tolerance may grow to this: a wrong derivative is seldom wrong by
/// less.
constexpr double largest_tolerance = 0.1;

/// For numbers computed or stored in this precision, whichever is coarser.
constexpr Tolerances tolerances_of(Precision precision) {
  if (precision == Precision::float32) return {1e-3, 1e-3, {1e-3, 1e-2}};
  return {1e-8, 1e-8, {1e-4, 1e-4}};
}

}  // namespace hessian_mpi::file
