#pragma once
/// One backward pass from the outputs y of a network. Internal to the factors of J.

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

}  // namespace hessian_mpi::layers
