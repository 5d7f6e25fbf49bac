#pragma once
/// What second derivatives do not cross, told by backward passes: whether they stay with each sample, and with each
/// position of it. Internal to the plan of layers.

#include <torch/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "layer_graph.hpp"
#include "layer_plan/cotangents.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {

/// Tests by backward passes from some samples, or some positions, whether derivatives reach others.
class Crossing {
 public:
  /// The graph must outlive the object. has_samples: of each call; others are left aside.
  Crossing(const LayerGraph& graph, std::int64_t samples, const std::vector<bool>& has_samples);
  std::size_t count() const { return graph_.forward().calls.size(); }
  /// Those that are not left aside.
  const std::vector<std::size_t>& calls() const { return all_; }

  /// Whether rows of the call can be counted by sample at all.
  bool has_samples(std::size_t c) const;
  /// Whether derivatives stay with each sample in all calls, all with their samples first: mostly so, and soon told.
  bool all_keep_samples() const;
  /// Whether they stay with each position of each sample among these calls, in the order given.
  bool all_keep_positions(const std::vector<std::size_t>& calls, const std::vector<bool>& samples_last) const;
  /// Whether derivatives of one call's delta and input, with its samples last or first, stay with each sample in all
  /// other calls: for each call and each of its two orders.
  std::vector<std::array<bool, 2>> keeps_samples(std::size_t c, bool samples_last) const;
  /// Whether they stay with each position of each sample, for each call in the order given.
  std::vector<bool> keeps_positions(std::size_t c, const std::vector<bool>& samples_last) const;
  /// Calls whose outputs the input of a call depends on.
  std::vector<std::size_t> upstream(std::size_t c) const;

 private:
  std::int64_t rows(std::size_t c) const;
  LayerOrder order(bool samples_last) const { return {Unit::sample, samples_, samples_last}; }
  using RowsOf = std::function<torch::Tensor(std::size_t call, std::int64_t rows)>;
  using Look = std::function<void(std::size_t call, const torch::Tensor& reached)>;
  // Derivatives, from some rows of the deltas and inputs of calls, by all outputs; which_rows: of a call's so many
  // rows.
  void for_reached(const std::vector<std::size_t>& calls, const RowsOf& which_rows, const Look& look) const;

  const LayerGraph& graph_;
  std::int64_t samples_;
  std::vector<std::size_t> all_;
  mutable Patternless patternless_;  // only what it keeps changes
};

/// The calls among which derivatives stay with each sample, and for each whether its samples go last.
struct Separable {
  std::vector<std::size_t> calls;
  std::vector<bool> samples_last;  ///< of all calls
};
Separable separable_calls(const Crossing& crossing, const LayerGraph& graph);

/// Of some calls that keep samples apart those that keep positions apart too, among each other.
std::vector<std::size_t> apart_by_position(const Crossing& crossing, const LayerGraph& graph,
                                           std::vector<std::size_t> calls, const std::vector<bool>& samples_last);

}  // namespace hessian_mpi::layers
