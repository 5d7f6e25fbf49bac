#pragma once
/// What rounding a network's code brings with it.

#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::network {

/// The machine epsilon of the narrowest floating dtype that a forward of the first batch computes in: of float64 or
/// float32, or of what the network casts to inside.
double coarsest_epsilon(const Problem& problem);

}  // namespace hessian_mpi::network
