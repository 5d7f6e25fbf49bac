#pragma once
/// All eigenvalues of a matrix of low rank, and eigenvectors, by products with blocks of vectors: a block Krylov space
/// from a random start, which ends where it holds the range of the matrix. That it does is certified by the Frobenius
/// norm.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/solvers/stored_operator.hpp"

namespace hessian_mpi::solvers {

struct LowRankOptions {
  double tolerance = 1e-6;     ///< what may be left of the matrix, in parts of its Frobenius norm
  std::int64_t at_once = 128;  ///< vectors that are multiplied together
  std::int64_t most = 0;       ///< vectors to try; more, and the rank is not low
  std::uint64_t seed = 0;
  bool eigenvectors = false;
};

/// With Q the basis and B = Q^T A Q, |A - Q B Q^T|_F^2 = |A|_F^2 - |B|_F^2 is also the most that the squares of the
/// differences between the eigenvalues of A and of Q B Q^T, both in order, add up to (Hoffman and Wielandt).
struct LowRank {
  bool found = false;                ///< whether that is within the tolerance
  std::vector<double> values;        ///< of B, ascending; all others of A are 0 in Q B Q^T
  double error_bound = 0;            ///< |A - Q B Q^T|_F, at most
  double norm = 0;                   ///< |H|_F, which is |A|_F or more
  double trace = 0;                  ///< of A
  double trace_error = 0;            ///< |trace of A - trace of B|: at most sqrt(N) error_bound
  double orthogonality_error = 0;    ///< largest |Q^T Q - I|
  std::int64_t vectors = 0;          ///< of Q
  std::vector<double> beyond;        ///< those values that are larger than error_bound, whatever their sign
  std::vector<double> eigenvectors;  ///< of these, where they are wanted: this rank's numbers of each in turn
  std::vector<double> residuals;     ///< |A v - lambda v| of each: at most error_bound
  std::int64_t passes = 0;           ///< over the matrix
};

/// Bytes that a rank takes beside the matrix.
std::uint64_t bytes_of_low_rank(std::int64_t own_rows, std::int64_t n, const LowRankOptions& options);

/// Collective. made: called after every block with the vectors so far, and what is left of the norm, in parts of it.
LowRank low_rank(StoredOperator& matrix, const LowRankOptions& options,
                 const std::function<void(std::int64_t, double)>& made = {});

}  // namespace hessian_mpi::solvers
