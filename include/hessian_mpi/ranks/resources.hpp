#pragma once
/// What a rank may use of its node: from the user's word, the environment, and what is there.

#include <cstdint>
#include <optional>
#include <string>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::ranks {

struct Resources {
  int threads = 1;           ///< compute threads; the same on all ranks, since the last digits depend on their number
  std::uint64_t memory = 0;  ///< bytes for buffers: the least that any rank has
  std::string warning;       ///< for the user, where threads outnumber the cores a rank is bound to; else empty
};

/// Collective. What the user has asked for, or else what there is: the same on all ranks.
Resources resources_of_rank(std::optional<int> threads, std::optional<std::uint64_t> memory,
                            const Communicator& communicator);

}  // namespace hessian_mpi::ranks
