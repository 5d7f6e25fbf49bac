#pragma once
/// Attention as one function of the graph of derivatives. Internal to the lean derivatives.

#include <ATen/core/Tensor.h>

#include <optional>

namespace hessian_mpi::network {

/// p values, where the graph says that p [heads, queries, keys] is the softmax of scale queries keys, with constants
/// added and places masked, and the three are derived: as a function of queries [heads, queries, width], keys [heads,
/// width, keys] and values [heads, keys, n] whose second derivative never has what is made for each pair of a query and
/// a key of all heads in memory. It leaves the functions of p aside. Nothing where p is something else.
std::optional<at::Tensor> attention(const at::Tensor& p, const at::Tensor& values);

}  // namespace hessian_mpi::network
