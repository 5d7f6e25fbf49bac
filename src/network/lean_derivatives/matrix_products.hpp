#pragma once
/// Products of matrices [m, i, k] and [m, k, j]. Internal to the lean derivatives.

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <optional>
#include <utility>

namespace hessian_mpi::network {

/// A B, or that and C, which may be taken for the result. Nothing is derived.
at::Tensor plain_product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c = {});

/// A B, with derivatives of any order.
at::Tensor derived_product(const at::Tensor& a, const at::Tensor& b);

/// A and B, where a function of the graph is that of their derived product.
std::optional<std::pair<at::Tensor, at::Tensor>> factors_of(torch::autograd::Node& function);

}  // namespace hessian_mpi::network
