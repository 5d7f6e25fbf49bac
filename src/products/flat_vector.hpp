#pragma once
// Tensors by parameters as one vector of numbers of the network's precision, and the other way round.

#include <torch/types.h>

#include <algorithm>
#include <vector>

#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::products {

/// The numbers of a vector as the parameters are. Copies, where LibTorch likes them to begin: the bits of its products
/// depend on the alignment.
template <class Number>
std::vector<torch::Tensor> in_shape_of_parameters(const network::Problem& problem, const Number* v) {
  std::vector<torch::Tensor> parts;
  for (std::size_t p = 0; p < problem.parameters().size(); ++p) {
    const auto& entry = problem.index().entries()[p];
    const auto options = problem.parameters()[p].options().requires_grad(false);
    const auto part =
        torch::from_blob(const_cast<Number*>(v) + entry.offset, entry.shape, torch::CppTypeToScalarType<Number>::value);
    parts.push_back(part.to(options, /*non_blocking=*/false, /*copy=*/true));
  }
  return parts;
}

/// The other way round, into v; undefined parts are zero.
template <class Number>
void flatten(const network::Problem& problem, const std::vector<torch::Tensor>& parts, Number* v) {
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto& entry = problem.index().entries()[p];
    auto* begin = v + entry.offset;
    if (!parts[p].defined()) {
      std::fill_n(begin, entry.size, Number{0});
      continue;
    }
    torch::from_blob(begin, entry.shape, torch::CppTypeToScalarType<Number>::value).copy_(parts[p].detach().to_dense());
  }
}

}  // namespace hessian_mpi::products
