#pragma once
/// Rows by double-backward: with g = dL/dtheta kept as a graph, row i is the derivative of the single number g_i.
/// (Pearlmutter, Fast exact multiplication by the Hessian, 1994, with a unit vector.)

#include <torch/types.h>

#include <optional>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::engines {

class DoubleBackward final : public Engine {
 public:
  /// The problem must outlive the engine.
  explicit DoubleBackward(const network::Problem& problem);

  std::string name() const override { return "rows"; }
  std::int64_t rows_at_once() const override;
  std::uint64_t bytes_per_row(std::int64_t columns) const override;
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;
  Passes passes() const override { return {pass_seconds_}; }

 private:
  // The gradient of one batch with its graph; kept between calls, so that a single batch is run once in all.
  struct Graph {
    std::int64_t batch;
    std::vector<torch::Tensor> gradient;
  };
  const Graph& graph_of(std::int64_t batch);
  std::vector<torch::Tensor> row(const Graph& graph, const std::vector<torch::Tensor>& parameters, std::int64_t i);

  const network::Problem& problem_;
  std::optional<Graph> graph_;
  double pass_seconds_ = 0;
  std::vector<torch::Tensor> cotangents_;  // zeros in each parameter's shape: one-hot while a row is made
};

}  // namespace hessian_mpi::engines
