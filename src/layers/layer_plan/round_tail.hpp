#pragma once
/// Which passes go round the end of the network (layer_tail.hpp), and whether that gives the same. Internal to the plan
/// of layers.

#include <cstddef>
#include <functional>
#include <vector>

#include "hessian_mpi/layers/layer_plan.hpp"
#include "layer_plan/cost.hpp"

namespace hessian_mpi::layers {

/// Looks for a tail where positions meet in some sound calls and in others not, and has the network know what passes
/// from calls before it take, by `counts_of_pass`, where that is less.
void look_for_tail(const std::vector<Unit>& units, const std::vector<bool>& samples_last,
                   const std::vector<std::size_t>& sound,
                   const std::function<OperatorCounts(const LayerGraph&, std::size_t)>& counts_of_pass,
                   Network& network);

/// Whether a pass of a step, in its copies of the batch, finds the same when it goes round the step's tail. Tried on a
/// cotangent without a pattern.
bool finds_the_same_round_tail(const network::Problem& problem, const LayerStep& step);

}  // namespace hessian_mpi::layers
