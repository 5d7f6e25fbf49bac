#pragma once
/// Places in LibTorch's graph of derivatives, as edges: backward passes between them, and those through which alone
/// layers enter the loss. By edges, not by tensors: an operation in place may have given a tensor another place in the
/// graph since. Internal to the factored engine.

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>
#include <torch/types.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "hessian_mpi/layers/layer_capture.hpp"

namespace hessian_mpi::layers {

/// One pass, of which the graph is kept. Undefined where there is no dependence.
std::vector<torch::Tensor> backward(const torch::autograd::edge_list& roots,
                                    const std::vector<torch::Tensor>& cotangents,
                                    const torch::autograd::edge_list& outputs, bool create_graph);

/// The places that a backward pass to the outputs of all these calls goes through whatever way it takes, from the last
/// before the first of these outputs on towards the loss: in which a few more operators may be when there are copies.
std::vector<torch::autograd::Edge> narrow_places(const CapturedForward& forward, const std::vector<std::size_t>& calls);

/// Which calls' outputs come before a place, from the inputs on; of the others derivatives reach it. None where one
/// enters the loss both through the place and past it.
std::optional<std::vector<bool>> calls_before(const CapturedForward& forward, const torch::autograd::Edge& place);

}  // namespace hessian_mpi::layers
