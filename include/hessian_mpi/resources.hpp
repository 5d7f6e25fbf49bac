#pragma once
/// What a rank may use of its node: from the options, the environment, and what is there.

#include <cstdint>
#include <string>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/options.hpp"

namespace hessian_mpi {

struct Resources {
  int threads = 1;           ///< compute threads; the same on all ranks, since the last digits depend on their number
  std::uint64_t memory = 0;  ///< bytes for buffers: the least that any rank has
  std::string warning;       ///< for the user, where threads outnumber the cores a rank is bound to; else empty
};

/// Collective. The same on all ranks.
Resources resources_of_rank(const Options& options, const Communicator& communicator);

}  // namespace hessian_mpi
