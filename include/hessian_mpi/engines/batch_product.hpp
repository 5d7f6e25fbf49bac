#pragma once
/// One batch's part of the problem's matrix as what multiplies vectors, without rows: of a Hessian by a derivative of
/// the gradient along a cotangent (Pearlmutter, Fast exact multiplication by the Hessian, 1994), of J^T A J by its
/// factors (jacobian_graph.hpp). Without the L2 term.

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/engines/jacobian_graph.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::engines {

class BatchProduct {
 public:
  /// Runs the network once and keeps the graph. The problem must outlive the object, with its parameters unchanged.
  BatchProduct(const network::Problem& problem, std::int64_t batch);

  /// v: a tensor for each parameter, as that is; so is the product, undefined where it is zero.
  std::vector<torch::Tensor> times(const std::vector<torch::Tensor>& v) const;

 private:
  const network::Problem& problem_;
  std::vector<torch::Tensor> gradient_;    // of a Hessian
  std::optional<JacobianGraph> jacobian_;  // of others
};

}  // namespace hessian_mpi::engines
