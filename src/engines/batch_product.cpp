#include "hessian_mpi/engines/batch_product.hpp"

#include <torch/csrc/autograd/autograd.h>

namespace hessian_mpi::engines {

using torch::Tensor;

BatchProduct::BatchProduct(const network::Problem& problem, std::int64_t batch) : problem_(problem) {
  if (problem.matrix() == Matrix::hessian) {
    gradient_ = problem.gradient(batch, /*create_graph=*/true);
  } else {
    jacobian_.emplace(problem, problem.matrix(), batch);
  }
}

std::vector<Tensor> BatchProduct::times(const std::vector<Tensor>& v) const {
  std::vector<Tensor> derived;
  std::vector<Tensor> cotangents;
  const auto& with_graph = jacobian_ ? jacobian_->products() : gradient_;
  for (std::size_t p = 0; p < with_graph.size(); ++p) {
    // Parameters that it does not depend on, or of which it is a linear function.
    if (!with_graph[p].defined() || !with_graph[p].requires_grad()) continue;
    derived.push_back(with_graph[p]);
    cotangents.push_back(v[p]);
  }
  const auto& parameters = problem_.parameters();
  std::vector<Tensor> none(parameters.size());
  if (derived.empty()) return none;
  if (!jacobian_) {
    return torch::autograd::grad(derived, parameters, cotangents, /*retain_graph=*/true, /*create_graph=*/false,
                                 /*allow_unused=*/true);
  }
  const Tensor x = jacobian_->times(derived, cotangents);
  return x.defined() ? jacobian_->pulled_back(x, parameters) : none;
}

}  // namespace hessian_mpi::engines
