#pragma once
/// How many copies of a batch one forward of a step runs over, so that a backward pass serves as many cotangents:
/// where a network is small, most of a pass is what it takes to call its operations. Internal to the plan of layers.

#include <cstdint>

#include "hessian_mpi/layers/layer_plan.hpp"
#include "layer_plan/cost.hpp"

namespace hessian_mpi::layers {

/// By counting operations; one where the network does with copies anything else than with a batch alone, which is tried
/// on the first batch and the last.
std::int64_t copies_for(const Network& network, const LayerStep& step);

}  // namespace hessian_mpi::layers
