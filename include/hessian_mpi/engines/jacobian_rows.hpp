#pragma once
/// Rows of a matrix J^T A J (output_map.hpp), one by one and without J: J e_i by a derivative of the gradient J^T u by
/// its cotangent u (Townsend's double-backward trick), then A, then one backward pass for J^T.

#include <torch/types.h>

#include <optional>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/engines/jacobian_graph.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::engines {

class JacobianRows final : public Engine {
 public:
  /// The problem must outlive the engine. matrix: ggn or fisher.
  JacobianRows(const network::Problem& problem, Matrix matrix) : problem_(problem), matrix_(matrix) {}

  std::string name() const override { return "rows"; }
  std::int64_t rows_at_once() const override;
  std::uint64_t bytes_per_row(std::int64_t columns) const override;
  /// Throws what output_map() throws.
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;

 private:
  struct Graph {
    std::int64_t batch;
    JacobianGraph jacobian;
  };
  const Graph& graph_of(std::int64_t batch);
  std::vector<torch::Tensor> row(const Graph& graph, const std::vector<torch::Tensor>& parameters,
                                 std::int64_t i) const;

  const network::Problem& problem_;
  Matrix matrix_;
  std::optional<Graph> graph_;  // kept between calls
};

/// Not collective. J^T A y for y of another network: of one point's outputs, at the problem's own point. What it adds
/// up to along a line changes as the matrix says: its derivative is J^T A J v. outputs: y of each batch. N numbers.
std::vector<double> pulled_back(const network::Problem& problem, Matrix matrix,
                                const std::vector<torch::Tensor>& outputs);

/// The same of one batch: by each parameter, undefined where y does not depend on it.
std::vector<torch::Tensor> pulled_back(const network::Problem& problem, Matrix matrix, std::int64_t batch,
                                       const torch::Tensor& output);

/// y of each batch, without a graph.
std::vector<torch::Tensor> outputs_of(const network::Problem& problem, Matrix matrix);

}  // namespace hessian_mpi::engines
