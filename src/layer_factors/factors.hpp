#pragma once
/// The factors of a plan's layers, from backward passes over all batches, as plain arrays. Notation as in
/// hessian_mpi/layer_factors.hpp; u counts the units of all batches, t the positions of a layer in a unit. Internal to
/// the factored engine.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/layer_plan.hpp"
#include "hessian_mpi/problem.hpp"
#include "layer_graph.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi {

/// What a layer brings to the rows of its parameters.
template <class Number>
struct LayerData {
  std::optional<std::size_t> weight;
  std::optional<std::size_t> bias;
  std::int64_t positions = 1;
  std::int64_t outputs = 0;
  std::int64_t groups = 1;
  std::int64_t columns = 0;                 ///< of a row of the weight
  std::int64_t elements = 0;                ///< of a unit's input
  std::vector<std::vector<Number>> inputs;  ///< a, for each group: [u][t][columns]
  std::vector<std::vector<std::int64_t>>
      input_elements;                            ///< for each group, which element that is: [t][columns], or -1
  std::vector<Number> delta;                     ///< [u][t][outputs]
  std::vector<std::size_t> upstream;             ///< layers of the plan
  std::vector<std::vector<Number>> derivatives;  ///< J, for each of those: [elements][u][t of it][outputs of it]
};

/// An output of a layer: what a double-backward pass is for.
using OutputOfLayer = std::pair<std::size_t, std::int64_t>;

template <class Number>
class Factors {
 public:
  /// Collective over the communicator, over which the passes for J are split. memory: bytes for S. Problem and plan
  /// must outlive the factors.
  Factors(const Problem& problem, const LayerPlan& plan, std::uint64_t memory, const Communicator& communicator);

  std::int64_t units() const { return units_; }
  std::size_t size() const { return layers_.size(); }
  const LayerData<Number>& layer(std::size_t l) const { return layers_[l]; }

  /// The outputs that will be asked for, in order: where there are several batches, as many passes as fit into memory
  /// are made for each forward.
  void expect(std::vector<OutputOfLayer> outputs) { expected_ = std::move(outputs); }

  /// Not collective. S of an output, for each layer m of the plan: [u][t][t of m][outputs of m]. Valid until the next
  /// call.
  const std::vector<std::vector<Number>>& second_derivatives(const OutputOfLayer& output);

 private:
  using Second = std::vector<std::vector<Number>>;
  LayerOrder order(std::size_t l, std::int64_t batch) const;
  std::int64_t units_before(std::int64_t batch) const { return unit_begins_[static_cast<std::size_t>(batch)]; }
  const LayerGraph& graph(std::int64_t batch);
  void read_layers();
  void append_batch(const LayerGraph& graph, std::int64_t batch);
  void make_derivatives(const Communicator& communicator);
  void make_derivatives(std::size_t l, std::int64_t element, std::int64_t batch);
  std::size_t size_of_second(std::size_t l) const;
  std::vector<OutputOfLayer> made_with(const OutputOfLayer& output) const;
  void add_pass(const OutputOfLayer& output, std::int64_t batch, Second& second);

  const Problem& problem_;
  const LayerPlan& plan_;
  std::uint64_t memory_;
  std::vector<LayerData<Number>> layers_;
  std::vector<std::int64_t> unit_begins_;  // of each batch, and the end
  std::int64_t units_ = 0;
  std::vector<OutputOfLayer> expected_;
  std::map<OutputOfLayer, Second> made_;
  std::optional<std::pair<std::int64_t, LayerGraph>> graph_;  // of the batch that was run last
};

}  // namespace hessian_mpi
