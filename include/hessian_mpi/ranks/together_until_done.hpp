#pragma once
/// Long work that ranks do each for themselves, with a meeting of all of them after each second.

#include <cstddef>
#include <functional>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::ranks {

/// Collective over the communicator. Each rank has `count` pieces of work of its own: take(k) does some from the k-th
/// on and returns how many. go_on: called by all ranks before the first second and after each; collective itself, and
/// the same on all of them: false, or what it throws, ends the work. What take throws on a rank is thrown on all.
void together_until_done(std::size_t count, const std::function<std::size_t(std::size_t)>& take,
                         const std::function<bool()>& go_on, const Communicator& communicator);

}  // namespace hessian_mpi::ranks
