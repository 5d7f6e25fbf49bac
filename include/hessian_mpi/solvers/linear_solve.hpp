#pragma once
/// (A + damping I) x = b with A = (H + H^T) / 2: by factors of the dense matrix, or by products with vectors.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/solvers/blas.hpp"
#include "hessian_mpi/solvers/dense_eigensolver.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"
#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

/// What solves. minres: for any A; cg: for positive definite A + damping I alone; both want one pass over the matrix
/// for each iteration.
enum class Solver { dense, minres, cg };

/// Vectors of N numbers, one after the other.
using RightSides = std::vector<double>;

struct DenseSolution {
  std::vector<double> solutions;
  double reciprocal_condition = 0;  ///< estimated
};

/// Collective. LU factors, by ScaLAPACK. matrix: A whole (Half::both), destroyed. right_sides: the same on all ranks,
/// as the solutions are. Throws RunError where A + damping I is singular, or is but for rounding.
DenseSolution solve_dense(DistributedMatrix& matrix, double damping, const RightSides& right_sides,
                          const ranks::Communicator& communicator);

/// Throws RunError where a matrix of n rows is singular to rounding, as its condition number says. other_ways: what the
/// user may do beside --damping.
void expect_regular(double reciprocal_condition, int n, const char* other_ways = nullptr);

/// What solve_dense() takes.
DecompositionCost cost_of_dense_solve(std::int64_t n, int ranks, const BlasSpeed& speed);

struct IterationOptions {
  Solver solver = Solver::minres;
  double tolerance = 1e-8;  ///< of |b - (A + damping I) x| / |b|
  std::int64_t most = 10'000;
};

struct IterativeSolution {
  std::vector<double> solutions;         ///< on all ranks
  std::vector<std::int64_t> iterations;  ///< for each
};

/// Collective. By PETSc. made: called after iterations with their number for this right side, and the residual that the
/// method thinks it has, in parts of |b|. Throws RunError where it does not converge, or cg meets a negative direction.
IterativeSolution solve_iteratively(SymmetricOperator& matrix, double damping, const RightSides& right_sides,
                                    const IterationOptions& options,
                                    const std::function<void(std::int64_t, double)>& made = {});

/// How far solutions are from being that.
struct SolveErrors {
  std::vector<double> residuals;        ///< |b - (A + damping I) x| / |b| for each
  std::vector<double> backward_errors;  ///< the same / (norm |x| + |b|): how much A and b would have to change
  std::vector<double> products;         ///< A x, on all ranks
};

/// Collective. norm: |A + damping I|, roughly. One pass over the matrix.
SolveErrors errors_of(SymmetricOperator& matrix, double damping, double norm, const RightSides& right_sides,
                      const std::vector<double>& solutions);

}  // namespace hessian_mpi::solvers
