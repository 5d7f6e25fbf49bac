#include "layer_factors/step_forward.hpp"

namespace hessian_mpi::layers {

LayerOrder StepForward::order(std::size_t l, std::int64_t batch, std::int64_t copies) const {
  return {step_.unit, problem_.samples_in(batch).count() * copies, step_.layers[l].samples_last};
}

const LayerGraph& StepForward::graph(std::int64_t batch, std::int64_t copies) {
  return run(batch, copies, nullptr);
}

const LayerGraph& StepForward::graph_of_passes(std::int64_t batch) {
  return run(batch, step_.copies, step_.tail.get());
}

const LayerGraph& StepForward::run(std::int64_t batch, std::int64_t copies, const Tail* tail) {
  const bool round_tail = tail != nullptr;
  if (!run_ || run_->batch != batch || run_->copies != copies || run_->round_tail != round_tail) {
    run_.reset();  // the old graph's memory before the new one's
    run_.emplace(Run{batch, copies, round_tail, LayerGraph(problem_, batch, copies, tail)});
  }
  return run_->graph;
}

}  // namespace hessian_mpi::layers
