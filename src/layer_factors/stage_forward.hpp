#pragma once
/// The batches of a problem run forward and back once for a stage, one at a time, and how they are cut into units.
/// Internal to the factored engine.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/layer_plan.hpp"
#include "hessian_mpi/problem.hpp"
#include "layer_graph.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi {

class StageForward {
 public:
  /// Problem and stage must outlive the object.
  StageForward(const Problem& problem, const LayerStage& stage) : problem_(problem), stage_(stage) {}

  const LayerStage& stage() const { return stage_; }
  std::int64_t batches() const { return problem_.batches(); }
  /// Of the stage's layer l in so many copies of a batch.
  LayerOrder order(std::size_t l, std::int64_t batch, std::int64_t copies) const;
  /// Kept until another one is asked for.
  const LayerGraph& graph(std::int64_t batch, std::int64_t copies);

 private:
  struct Run {
    std::int64_t batch;
    std::int64_t copies;
    LayerGraph graph;
  };
  const Problem& problem_;
  const LayerStage& stage_;
  std::optional<Run> run_;
};

}  // namespace hessian_mpi
