#pragma once
/// Positive definite matrices that are spread over the ranks: Cholesky factors, and what comes of them, by ScaLAPACK.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/solvers/blas.hpp"
#include "hessian_mpi/solvers/dense_eigensolver.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"

namespace hessian_mpi::solvers {

/// Collective. Makes B = scale A + damping I of A; its lower half counts.
void shift(DistributedMatrix& matrix, double scale, double damping);

/// Collective where solve is. Estimate of the norm of the inverse of a symmetric matrix of n rows that solve divides
/// by. Not by pdpocon and pdgecon: those of ScaLAPACK 2.2 end after one step, and are wrong by factors of hundreds.
double norm_of_inverse(std::int64_t n, const std::function<std::vector<double>(const std::vector<double>&)>& solve);

/// A factor L, B = L L^T:
///
///   CholeskyFactor factor(matrix, world);                         // matrix: its lower half counts; it is destroyed
///   if (factor.is_there()) x = factor.solve(b);
class CholeskyFactor {
 public:
  /// Collective. Keeps references to both.
  CholeskyFactor(DistributedMatrix& matrix, const ranks::Communicator& communicator);

  /// Whether B is positive definite, to rounding. All else is for one that is.
  bool is_there() const { return is_there_; }
  /// Collective. Estimate of 1 / (condition number of B).
  double reciprocal_condition() const;
  /// Collective. The logarithm of B's determinant.
  double log_determinant() const;
  /// Collective. Vectors of N numbers, one after the other, the same on all ranks, as the solutions are.
  std::vector<double> solve(const std::vector<double>& right_sides) const;
  /// Collective. The matrix becomes B^-1, both halves of it; the factor is gone then.
  void invert();

 private:
  DistributedMatrix& matrix_;
  const ranks::Communicator& communicator_;
  double norm_;  // of B, in the 1-norm
  bool is_there_ = false;
};

/// What the factor takes, with the inverse or without, beside the matrices that are kept meanwhile.
DecompositionCost cost_of_cholesky(std::int64_t n, bool with_inverse, int ranks, const BlasSpeed& speed);

}  // namespace hessian_mpi::solvers
