#pragma once
/// On which device each rank computes.

#include <c10/core/Device.h>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::run {

/// Collective. The device of this rank: ranks of a node share its GPUs in turn. Throws InputError on all ranks where
/// --device cuda finds no GPU on one of them.
c10::Device device_of_rank(DeviceChoice choice, const ranks::Communicator& communicator);

}  // namespace hessian_mpi::run
