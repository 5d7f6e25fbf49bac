#pragma once
/// How far eigenvalues and eigenvectors that were found are from being that.

#include <cstdint>
#include <vector>

#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

/// Collective. |A v - lambda v| of each pair. vectors: one after the other, this rank's numbers. at_once: how many are
/// multiplied together.
std::vector<double> residuals(SymmetricOperator& matrix, const std::vector<double>& values,
                              const std::vector<double>& vectors, std::int64_t at_once);

}  // namespace hessian_mpi::solvers
