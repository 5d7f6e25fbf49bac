#pragma once
/// The trace of a matrix by products with random vectors.

#include <cstdint>

#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

struct TraceEstimate {
  double trace = 0;
  double error = 0;  ///< two of it hold the trace in 95 of 100 cases: from the scatter of the probes, and their number
};

/// Collective. Hutch++ (Meyer, Musco, Musco, Woodruff, Hutch++: Optimal Stochastic Trace Estimation, 2021): exact in
/// the space that A takes `probes` random vectors to, which has the large eigenvalues; by as many random probes, two or
/// more, in the rest. 3 probes products.
TraceEstimate estimated_trace(SymmetricOperator& matrix, std::int64_t probes, std::uint64_t seed);

}  // namespace hessian_mpi::solvers
