#pragma once
/// Long work that ranks do each for themselves, with a meeting of all of them after each second.

#include <cstddef>
#include <functional>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::ranks {

/// Collective over the communicator. Each rank has `count` pieces of work of its own: take(k) does some from the k-th
/// on and returns how many. between: called by all ranks before the first second and after each; what it throws, on all
/// of them, ends the work, as a StopPoint does. What take throws on a rank is thrown on all.
void together_until_done(std::size_t count, const std::function<std::size_t(std::size_t)>& take,
                         const std::function<void()>& between, const Communicator& communicator);

}  // namespace hessian_mpi::ranks
