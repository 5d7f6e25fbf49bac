#pragma once
/// Products of matrices that are spread over the ranks, of the forms V D V^T and P F P.

#include <vector>

#include "hessian_mpi/solvers/distributed_matrix.hpp"

namespace hessian_mpi::solvers {

/// Collective. matrix becomes V diag(weights) V^T, both halves of it. weights: not negative. vectors: V; destroyed.
void weighted_sum(DistributedMatrix& vectors, const std::vector<double>& weights, DistributedMatrix& matrix);

/// Collective. middle becomes P F P. outer: P, symmetric, both halves of it; middle: F, symmetric, its lower half
/// counts. Takes another matrix of memory meanwhile.
void sandwich(const DistributedMatrix& outer, DistributedMatrix& middle);

}  // namespace hessian_mpi::solvers
