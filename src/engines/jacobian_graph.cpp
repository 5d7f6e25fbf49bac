#include "hessian_mpi/engines/jacobian_graph.hpp"

#include <torch/csrc/autograd/autograd.h>

namespace hessian_mpi::engines {

using torch::Tensor;

std::vector<Tensor> transposed_times(const std::vector<Tensor>& parameters, const Tensor& y, const Tensor& x,
                                     bool create_graph) {
  if (!y.requires_grad()) return std::vector<Tensor>(parameters.size());
  return torch::autograd::grad({y}, parameters, {x}, /*retain_graph=*/true, create_graph,
                               /*allow_unused=*/true);
}

JacobianGraph::JacobianGraph(const network::Problem& problem, Matrix matrix, std::int64_t batch)
    : map_(output_map(problem, matrix, batch)),
      cotangent_(torch::zeros_like(map_.y).detach().requires_grad_()),
      products_(transposed_times(problem.parameters(), map_.y, cotangent_, /*create_graph=*/true)) {}

Tensor JacobianGraph::times(const std::vector<Tensor>& derived, const std::vector<Tensor>& parts) const {
  return torch::autograd::grad(derived, {cotangent_}, parts, /*retain_graph=*/true, /*create_graph=*/false,
                               /*allow_unused=*/true)
      .front();
}

std::vector<Tensor> JacobianGraph::pulled_back(const Tensor& x, const std::vector<Tensor>& parameters) const {
  return transposed_times(parameters, map_.y, map_.times(x.detach()), /*create_graph=*/false);
}

}  // namespace hessian_mpi::engines
