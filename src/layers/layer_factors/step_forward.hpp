#pragma once
/// The batches of a problem run forward and back once for a step, one at a time, and how they are cut into units.
/// Internal to the factored engine.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "layer_graph.hpp"
#include "layer_tail.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {

class StepForward {
 public:
  /// Problem and step must outlive the object.
  StepForward(const network::Problem& problem, const LayerStep& step) : problem_(problem), step_(step) {}

  const LayerStep& step() const { return step_; }
  std::int64_t batches() const { return problem_.batches(); }
  /// Of the step's layer l in so many copies of a batch.
  LayerOrder order(std::size_t l, std::int64_t batch, std::int64_t copies) const;
  /// Kept until another one is asked for.
  const LayerGraph& graph(std::int64_t batch, std::int64_t copies);
  /// The step's copies of a batch, to begin its passes in: they go round its tail, if it has one.
  const LayerGraph& graph_of_passes(std::int64_t batch);

 private:
  struct Run {
    std::int64_t batch;
    std::int64_t copies;
    bool round_tail;
    LayerGraph graph;
  };
  const LayerGraph& run(std::int64_t batch, std::int64_t copies, const Tail* tail);
  const network::Problem& problem_;
  const LayerStep& step_;
  std::optional<Run> run_;
};

}  // namespace hessian_mpi::layers
