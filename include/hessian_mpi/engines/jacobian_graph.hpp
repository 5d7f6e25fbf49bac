#pragma once
/// One batch's J as what multiplies from both sides, without J: J^T x by a backward pass, J v by a derivative of J^T u
/// by its cotangent u (Townsend's double-backward trick).

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "hessian_mpi/engines/output_map.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::engines {

/// J^T x for J by some parameters, each part undefined where y does not depend on one.
std::vector<torch::Tensor> transposed_times(const std::vector<torch::Tensor>& parameters, const torch::Tensor& y,
                                            const torch::Tensor& x, bool create_graph);

class JacobianGraph {
 public:
  /// Runs the network. matrix: ggn or fisher. Throws what output_map() throws.
  JacobianGraph(const network::Problem& problem, Matrix matrix, std::int64_t batch);

  /// J^T u by each parameter, with its graph; undefined where the outputs do not depend on one.
  const std::vector<torch::Tensor>& products() const { return products_; }
  /// J v, for v that has these parts where some of products() are derived, which have a graph; undefined where it is
  /// zero whatever v.
  torch::Tensor times(const std::vector<torch::Tensor>& derived, const std::vector<torch::Tensor>& parts) const;
  /// J^T A x by some parameters.
  std::vector<torch::Tensor> pulled_back(const torch::Tensor& x, const std::vector<torch::Tensor>& parameters) const;

 private:
  OutputMap map_;
  torch::Tensor cotangent_;  // u
  std::vector<torch::Tensor> products_;
};

}  // namespace hessian_mpi::engines
