#pragma once
/// How many copies of a batch one forward of a stage runs over, so that a backward pass serves as many cotangents:
/// where a network is small, most of a pass is what it takes to call its operations. Internal to the plan of layers.

#include <cstdint>

#include "cost.hpp"
#include "hessian_mpi/layer_plan.hpp"

namespace hessian_mpi {

/// By counting operations; one where the network does with copies anything else than with a batch alone, which is tried
/// on the first batch and the last.
std::int64_t copies_for(const Network& network, const LayerStage& stage);

}  // namespace hessian_mpi
