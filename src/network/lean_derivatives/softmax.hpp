#pragma once
/// LibTorch's operators of softmax and its derivatives. Internal to the lean derivatives.

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>

namespace hessian_mpi::network {

at::Tensor softmax(const at::Tensor& x, std::int64_t dim, bool half_to_float);
/// Rows of which all is masked are zero.
at::Tensor safe_softmax(const at::Tensor& x, std::int64_t dim, std::optional<at::ScalarType> dtype);

/// Of x by its softmax y, and of x by its log_softmax y, times g.
at::Tensor softmax_gradient(const at::Tensor& g, const at::Tensor& y, std::int64_t dim, at::ScalarType dtype);
at::Tensor log_softmax_gradient(const at::Tensor& g, const at::Tensor& y, std::int64_t dim, at::ScalarType dtype);

/// Whether a function of the graph is that of a softmax along the last dimension.
bool is_softmax_of_rows(torch::autograd::Node& function);

}  // namespace hessian_mpi::network
