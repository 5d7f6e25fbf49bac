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
  std::string warning;       ///< for the user, where threads are more or fewer than a rank's cores; else empty
};

/// Collective. What the user has asked for, or else what there is: the same on all ranks.
Resources resources_of_rank(std::optional<int> threads, std::optional<std::uint64_t> memory,
                            const Communicator& communicator);

/// What a rank has to compute on: processors that it may run on, and the cores that this makes when those that ranks of
/// the node share are counted in parts. bound: what started it may run on more.
struct CoresOfRank {
  int processors = 1;
  int cores = 1;
  bool bound = false;
};

/// Collective.
CoresOfRank cores_of_rank(const Communicator& communicator);

/// What the user should know of so many threads on these cores; empty where there is nothing.
std::string warning_of_threads(int threads, const CoresOfRank& has);

/// Bytes that the batch system has given to each of so many ranks of a node, by Slurm's variables in the environment.
std::optional<std::uint64_t> memory_by_slurm(int ranks_on_node);

}  // namespace hessian_mpi::ranks
