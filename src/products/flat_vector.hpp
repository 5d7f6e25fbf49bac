#pragma once
// Tensors by parameters as one vector of doubles, and the other way round.

#include <torch/types.h>

#include <vector>

#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::products {

/// The numbers of a vector as the parameters are.
inline std::vector<torch::Tensor> in_shape_of_parameters(const network::Problem& problem, const double* v) {
  const auto flat = torch::from_blob(const_cast<double*>(v), {problem.index().size()}, torch::kFloat64);
  std::vector<torch::Tensor> parts;
  for (std::size_t p = 0; p < problem.parameters().size(); ++p) {
    const auto& entry = problem.index().entries()[p];
    const auto options = problem.parameters()[p].options().requires_grad(false);
    parts.push_back(flat.narrow(0, entry.offset, entry.size).reshape(entry.shape).to(options));
  }
  return parts;
}

/// The other way round; undefined parts are zero. more: zeros at the end.
inline std::vector<double> flat(const network::Problem& problem, const std::vector<torch::Tensor>& parts,
                                std::size_t more = 0) {
  std::vector<double> numbers(static_cast<std::size_t>(problem.index().size()) + more);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    if (!parts[p].defined()) continue;
    const auto& entry = problem.index().entries()[p];
    torch::from_blob(numbers.data() + entry.offset, {entry.size}, torch::kFloat64)
        .copy_(parts[p].detach().to_dense().reshape(-1));
  }
  return numbers;
}

}  // namespace hessian_mpi::products
