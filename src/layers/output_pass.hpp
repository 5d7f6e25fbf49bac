#pragma once
/// One backward pass from the outputs y of a network, and rows of J that follow from it. Internal to the factors of J.

#include <torch/types.h>

#include <cstddef>
#include <vector>

#include "hessian_mpi/layers/jacobian_plan.hpp"
#include "hessian_mpi/layers/layer_capture.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {

/// J^T x by the outputs z of calls, each in z's shape, and then by parameters; zeros where there is no dependence. x:
/// y's shape.
std::vector<torch::Tensor> derivatives_of_outputs(const CapturedForward& forward, const torch::Tensor& x,
                                                  const std::vector<std::size_t>& calls,
                                                  const std::vector<torch::Tensor>& parameters);

/// The part of each sample in J^T x by a layer's weight or bias, whose delta the pass has given: [samples, elements].
torch::Tensor parts_of_samples(const torch::Tensor& delta, const LayerCall& call, bool bias, const LayerOrder& order);

}  // namespace hessian_mpi::layers
