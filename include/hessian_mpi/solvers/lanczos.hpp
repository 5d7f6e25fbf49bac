#pragma once
/// The Lanczos process with full reorthogonalisation, from several vectors at once: one pass over the matrix makes a
/// step of all.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

/// What comes of one vector: eigenvalues of the tridiagonal matrix, ascending, and the squares of the first components
/// of its eigenvectors, which add up to 1. They are a quadrature: v^T f(A) v = sum of weight * f(value), exact for
/// polynomials f of degree below twice their number.
struct RitzValues {
  std::vector<double> values;
  std::vector<double> weights;
};

struct LanczosResult {
  std::vector<RitzValues> of_vectors;
  double orthogonality_error = 0;  ///< largest |Q^T Q - I| of all bases
};

/// Bytes that a rank takes for the bases.
std::uint64_t bytes_of_lanczos(std::int64_t own_rows, std::int64_t vectors, std::int64_t steps);

/// Collective. starts: of each vector, one after the other, this rank's numbers; of norm 1 all together. steps: at
/// most; fewer where a vector's Krylov space ends before. made: called after every step with their number so far.
LanczosResult lanczos(SymmetricOperator& matrix, const std::vector<double>& starts, std::int64_t vectors,
                      std::int64_t steps, const std::function<void(std::int64_t)>& made = {});

/// This rank's numbers of random vectors of norm 1 whose numbers are all equal but for their signs. The vectors are the
/// same for the same seed, whatever the number of ranks.
std::vector<double> random_unit_vectors(const SymmetricOperator& matrix, std::int64_t vectors, std::uint64_t seed);

/// Collective. |A|, to a few per cent, by a few steps.
double estimated_norm(SymmetricOperator& matrix, std::uint64_t seed);

}  // namespace hessian_mpi::solvers
