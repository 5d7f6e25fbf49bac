#pragma once
/// The largest or smallest eigenvalues of a symmetric matrix and their vectors, by SLEPc's Krylov-Schur method.

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

/// An end of the spectrum.
enum class End { largest, smallest };

struct ExtremeOptions {
  End end = End::largest;
  std::int64_t count = 10;
  double tolerance = 1e-8;  ///< of residuals, in parts of norm
  double norm = 1;          ///< |A|, roughly
  std::uint64_t seed = 0;
  /// To keep, where that is more than the method cannot do without; with fewer it takes more products.
  std::int64_t most_vectors = std::numeric_limits<std::int64_t>::max();
};

/// How many vectors of N numbers the method keeps at most, over all ranks.
std::int64_t vectors_kept(const ExtremeOptions& options, std::int64_t n);

struct ExtremeEigenvalues {
  std::vector<double> values;     ///< the outermost first
  std::vector<double> residuals;  ///< |A v - value v| of each, by a product made for it
  std::vector<double> vectors;    ///< of norm 1, one after the other: of each the numbers of this rank
  std::int64_t passes = 0;        ///< over the matrix
};

/// Collective. found: called after every iteration with how many have converged, and how many passes there were. Throws
/// RunError where they don't converge.
ExtremeEigenvalues extreme_eigenvalues(SymmetricOperator& matrix, const ExtremeOptions& options,
                                       const std::function<void(std::int64_t, std::int64_t)>& found = {});

/// Version of SLEPc and PETSc.
std::string slepc_version();

}  // namespace hessian_mpi::solvers
