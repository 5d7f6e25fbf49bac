#pragma once
/// Rows of a matrix with rows of samples: derivatives of each sample's outputs, or of its loss (numbers_of_samples() in
/// output_map.hpp), one backward pass each.

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::engines {

/// Rows of each sample. Runs the network on a batch. Throws what numbers_of_samples() throws.
std::int64_t rows_of_sample(const network::Problem& problem, Matrix matrix);

/// All numbers that the rows are derivatives of, in the order of rows. Runs the network on all batches.
std::vector<double> numbers_of_all_samples(const network::Problem& problem, Matrix matrix);

/// Their derivatives along v, a tensor for each parameter, without rows.
std::vector<double> slopes_of_all_samples(const network::Problem& problem, Matrix matrix,
                                          const std::vector<torch::Tensor>& v);

/// Throws InputError where `loss`, that of the data set, is not made of losses of samples, so that these have no
/// derivatives that add up to its. Runs the network on all batches.
void expect_losses_of_samples(const network::Problem& problem, double loss);

class RowsOfSamples final : public Engine {
 public:
  /// The problem must outlive the engine. matrix: jacobian or gradients. Where the network makes of single samples what
  /// it makes of them in their batch, which some of them tell, each sample runs alone, so that a pass goes through
  /// nothing else.
  RowsOfSamples(const network::Problem& problem, Matrix matrix);

  std::string name() const override { return "rows"; }
  std::int64_t rows_at_once() const override;
  std::uint64_t bytes_per_row(std::int64_t /*columns*/) const override { return 0; }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;

  bool runs_samples_alone() const { return alone_; }

 private:
  // What some samples that run together gave, with its graph; kept between calls.
  struct Graph {
    Rows samples;
    torch::Tensor numbers;  // [samples, rows of a sample]
  };
  torch::Tensor numbers_of(const Rows& samples) const;
  bool can_run_alone() const;
  const Graph& graph_of(std::int64_t sample);
  template <class Number>
  void compute_as(const Rows& rows, const Rows& columns, Number* out, const std::function<void(double)>& advance);

  const network::Problem& problem_;
  Matrix matrix_;
  double terms_;
  std::int64_t rows_of_sample_;
  bool alone_;
  std::optional<Graph> graph_;
};

}  // namespace hessian_mpi::engines
