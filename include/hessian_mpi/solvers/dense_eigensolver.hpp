#pragma once
/// All eigenvalues of a symmetric matrix that is spread over the ranks, and its eigenvectors, by ScaLAPACK: reduction
/// to a tridiagonal matrix, then LAPACK's QR iteration for the values alone, or divide and conquer with the vectors.

#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/solvers/blas.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"

namespace hessian_mpi::solvers {

/// Collective. All eigenvalues, ascending, on all ranks. matrix: its lower half counts; it is destroyed. Throws
/// RunError where the iteration does not converge.
std::vector<double> eigenvalues_of(DistributedMatrix& matrix, const ranks::Communicator& communicator);

/// Collective. The same; column k of vectors, which is as matrix is, becomes the eigenvector of value k, of norm 1.
std::vector<double> eigenvalues_and_vectors_of(DistributedMatrix& matrix, DistributedMatrix& vectors,
                                               const ranks::Communicator& communicator);

/// What a small matrix is made of, on each rank alone.
struct SmallDecomposition {
  SymmetricSums sums;           ///< of the matrix
  std::vector<double> values;   ///< ascending
  std::vector<double> vectors;  ///< row k: that of value k
};
/// Matrices of at most so many rows are left to one rank: they are done before ranks have talked.
constexpr std::int64_t small_matrix = 200;
/// Not collective. By LAPACK's dsyev. matrix: n x n numbers, of which the symmetric part is meant.
SmallDecomposition decompose_small(const std::vector<double>& matrix, std::int64_t n);
/// How far eigenvalues are from what the matrix says without them; relative, rounding alone gives about 1e-13.
struct SpectrumErrors {
  double trace = 0;      ///< |sum of values - trace| / sum of |values|
  double frobenius = 0;  ///< |sum of values^2 - |A|_F^2| / |A|_F^2
};
SpectrumErrors errors_of(const std::vector<double>& values, const SymmetricSums& sums);

/// How far eigenvectors are from being that.
struct VectorErrors {
  double residual = 0;       ///< largest |A v - value v| / largest |value|
  double orthogonality = 0;  ///< largest |V^T V - I|
};
/// Collective. matrix: as before it was decomposed, its lower half counts. Takes a panel of memory, 64 columns wide.
VectorErrors errors_of(const DistributedMatrix& matrix, const std::vector<double>& values,
                       const DistributedMatrix& vectors, const ranks::Communicator& communicator);

/// Not collective. Of a small one.
VectorErrors errors_of(const std::vector<double>& matrix, const SmallDecomposition& found);

/// Above this, errors are not of rounding.
constexpr double spectrum_tolerance = 1e-10;

/// What a decomposition takes, on each of so many ranks.
struct DecompositionCost {
  std::uint64_t bytes = 0;
  double operations = 0;  ///< of all ranks together
  double seconds = 0;     ///< at the speed of the ranks
};
DecompositionCost cost_of_decomposition(std::int64_t n, bool with_vectors, int ranks, const BlasSpeed& speed);

}  // namespace hessian_mpi::solvers
