#pragma once
/// What norms do before their weight: a = (x - mean) / deviation, and its derivative. Internal to the layers.

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "hessian_mpi/layers/layer_capture.hpp"

namespace hessian_mpi::layers {

/// By the mean and the variance of x, seen in some sizes, over some dimensions of these.
Normalization normalization_over(const torch::Tensor& x, std::vector<std::int64_t> sizes,
                                 std::vector<std::int64_t> over, double epsilon);
/// By a mean and a variance of each channel, the second dimension of x, that are held fixed.
Normalization fixed_normalization(const torch::Tensor& x, const torch::Tensor& mean, const torch::Tensor& variance,
                                  double epsilon);

/// a, in the shape of x.
torch::Tensor normalized(const Normalization& normalization, const torch::Tensor& x);

/// (da/dx) v, for v of x's shape, at the x that a came of: (v - mean(v) - a mean(a v)) / deviation, which is symmetric,
/// so that it is v^T (da/dx) too.
torch::Tensor times_derivative(const Normalization& normalization, const torch::Tensor& a, const torch::Tensor& v);
/// The same between a call's a and what its input_edge is of, where it has a norm.
torch::Tensor through_normalization(const LayerCall& call, const torch::Tensor& tensor);

}  // namespace hessian_mpi::layers
