#pragma once
/// The factors of a step's layers, from backward passes over all batches, as plain arrays. Notation as in
/// hessian_mpi/layer_factors.hpp; u counts the units of all batches, t the positions of a layer in a unit. Internal to
/// the factored engine.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "layer_factors/step_forward.hpp"
#include "layer_factors/tail_columns.hpp"
#include "layer_graph.hpp"

namespace hessian_mpi::layers {

/// Sums over more units are made of so many after the other, which are added up in float64; what they are made of is in
/// the cache then.
constexpr std::int64_t most_units = 256;

/// What a layer brings to the rows of its parameters.
template <class Number>
struct LayerData {
  std::optional<std::size_t> weight;
  std::optional<std::size_t> bias;
  bool by_input = false;     ///< the weight is [columns, outputs]
  bool elementwise = false;  ///< each output has one weight, that of the column of the same number
  bool embedding = false;    ///< of each place one column is 1, or none
  std::int64_t positions = 1;
  std::int64_t outputs = 0;
  std::int64_t outputs_of_group = 0;
  std::vector<std::int64_t> first_outputs;  ///< of each group
  std::int64_t columns = 0;                 ///< that the weights of a group see
  std::int64_t elements = 0;                ///< of a unit's input
  bool sees_input_as_it_is = false;         ///< element t * columns + q is what the weight sees at t in column q
  std::vector<std::vector<Number>> inputs;  ///< a, for each group: [u][t][columns]
  std::vector<std::int64_t> words;          ///< of an embedding, which column that is, or -1: [u][t]
  std::vector<std::vector<std::int64_t>>
      input_elements;                 ///< for each group, which element that is: [t][columns], or -1
  std::vector<Number> delta;          ///< [u][t][outputs], to be read as rows of a factor
  std::vector<std::size_t> upstream;  ///< layers whose rows are made and that its input depends on
};

/// An output of a layer: what a double-backward pass is for.
using OutputOfLayer = std::pair<std::size_t, std::int64_t>;

/// What all rows of one output have in common, for each layer m of the step; to be read as rows of a factor.
template <class Number>
struct OutputFactors {
  std::vector<std::vector<Number>> second;  ///< S: [u][t][t of m][outputs of m]
  std::vector<std::vector<Number>>
      derivatives;  ///< J of m by this output: [u][t][elements of m]; none if not downstream
  /// Where rows sum directions before these follow the tail, instead of both in its layers: [u][t][places of the tail
  /// in u][features]. To be read as rows of a factor.
  std::vector<Number> directions;
};

/// What rows of a layer have in the columns of a layer m, summed over their own positions; to be read as rows of a
/// factor.
template <class Number>
struct Sums {
  std::vector<Number> second;       ///< of S: [row][u][t of m][outputs of m]
  std::vector<Number> derivatives;  ///< of J: [row][u][elements of m]; empty where it is zero
  /// Of each row the runs of units outside of which both are zero; empty: of all rows all units.
  std::vector<std::vector<Rows>> units = {};
};

/// A row of a layer: of an output, by what the weight of a group sees in a column, or of the bias.
struct RowOfLayer {
  std::size_t layer = 0;
  std::int64_t output = 0;
  std::size_t group = 0;
  std::optional<std::int64_t> column;  ///< none: of the bias
};

template <class Number>
class Factors {
 public:
  /// memory: bytes for what outputs have; what does not fit is made again when it is asked for. Problem and step must
  /// outlive the factors.
  Factors(const network::Problem& problem, const LayerStep& step, std::uint64_t memory);

  std::int64_t units() const { return units_; }
  std::size_t size() const { return layers_.size(); }
  const LayerData<Number>& layer(std::size_t l) const { return layers_[l]; }

  /// The outputs that will be asked for, in order: where there are several batches, as many passes as fit into memory
  /// are made for each forward.
  void expect(std::vector<OutputOfLayer> outputs);

  bool makes_rows(std::size_t l) const { return l < step().row_layers; }
  bool depends(std::size_t m, std::size_t l) const;
  /// Whether rows are made in all columns: from inputs too, and summed over layers that share parameters.
  bool whole() const { return step().whole; }

  /// J of an element of l's input by all outputs of m, on which it depends; both make rows, with one position in a
  /// unit: [u][outputs of m].
  const Number* input_derivative(std::size_t l, std::int64_t element, std::size_t m) const;

  /// For an output of a layer whose rows are made. Valid until the next call.
  const OutputFactors<Number>& of_output(const OutputOfLayer& output);

  /// Whether rows of a layer are made by passes of their own, a copy of the batch for each of them.
  bool by_row(std::size_t l, bool bias) const { return step().layers[l].by_row || (bias && layers_[l].positions > 1); }
  /// How many neighbours to ask for at once, as many as these whatever is wanted, so that each has its place in a pass.
  std::int64_t rows_at_once() const;
  /// For rows by passes of their own, each of one layer or the sum of those of some; anything for none. For each layer
  /// of the step. Valid until the next call.
  const std::vector<Sums<Number>>& of_rows(std::span<const std::vector<RowOfLayer>> rows);

  bool is_in_tail(std::size_t m) const { return tail_ && tail_->has(step().layers[m].call); }
  /// Whether rows of l have directions summed, which follow the tail then, in the columns of a layer m.
  bool sums_directions(std::size_t l, std::size_t m) const { return is_in_tail(m) && keeps_directions(l); }
  std::int64_t numbers_of_direction() const { return tail_->numbers_of_direction(); }
  /// What rows have in the columns of a layer m in the tail: directions [u][place][feature][row], summed over positions
  /// of the rows.
  void follow_sums(std::size_t m, const Number* directions, std::int64_t rows, Sums<Number>& sums) const;

  /// So far; made: of the outputs that are expected, where none of them will be made again.
  engines::Passes passes() const;

 private:
  const LayerStep& step() const { return forward_.step(); }
  std::int64_t units_before(std::int64_t batch) const { return unit_begins_[static_cast<std::size_t>(batch)]; }
  void read_layers();
  void append_batch(const LayerGraph& graph, std::int64_t batch);
  void derive_inputs(std::size_t l, std::int64_t batch);
  std::size_t numbers_of_output(std::size_t l) const;
  bool serves_once(std::size_t l) const;
  OutputFactors<Number> prepared(const OutputOfLayer& output, OutputFactors<Number> factors) const;
  void prepare(const std::vector<OutputOfLayer>& outputs);
  std::int64_t outputs_at_once(std::size_t l) const;
  OutputOfLayer first_made_with(const OutputOfLayer& output) const;
  std::vector<OutputOfLayer> made_with(const OutputOfLayer& output) const;
  std::vector<OutputOfLayer> made_next(const OutputOfLayer& output) const;
  struct OutputAt {
    OutputOfLayer output;
    std::int64_t position;
  };
  void make_second(const std::vector<OutputOfLayer>& outputs, std::int64_t batch);
  /// What a pass starts with at a layer: of dL/dz, [copies][units][positions][outputs], and of a, [copies][units]
  /// [elements], if any.
  struct Cotangents {
    torch::Tensor of_delta;
    torch::Tensor of_input;
  };
  using CotangentsOfLayers = std::map<std::size_t, Cotangents>;
  CotangentsOfLayers start_at(std::span<const OutputAt> places, std::int64_t batch) const;
  CotangentsOfLayers start_at_rows(std::span<const std::vector<RowOfLayer>> rows, std::int64_t batch) const;
  void add_row(const RowOfLayer& row, std::int64_t copy, std::int64_t batch, CotangentsOfLayers& cotangents) const;
  bool depends_on_any(std::size_t m, const CotangentsOfLayers& cotangents) const;
  /// Where the numbers of a unit begin in the columns of a layer m, for what is differentiated: an output at a
  /// position, or a row.
  using Destination = std::function<Number*(std::size_t m, std::size_t what, std::int64_t unit)>;
  using Directions = std::function<Number*(std::size_t what, std::int64_t unit)>;
  struct Destinations {
    Destination second;
    Destination derivatives;
    Directions directions;  ///< where these are kept, and do not follow the tail yet
  };
  /// What passes start with, for some of what is differentiated, counted from the first: nothing where none is asked
  /// for.
  using Start = std::function<CotangentsOfLayers(std::size_t first, std::size_t count)>;
  void differentiate(std::size_t count, std::int64_t batch, const Start& start, const Destinations& to);
  torch::Tensor differentiate_at_once(const CotangentsOfLayers& cotangents, std::size_t first, std::size_t count,
                                      std::int64_t batch, const Destinations& to);
  void follow_tail(const std::vector<torch::Tensor>& directions, std::size_t first, std::size_t count,
                   const Destinations& to);
  bool keeps_directions(std::size_t l) const;
  /// Whether the input of a layer depends on any whose rows are made.
  bool is_downstream(std::size_t m) const { return layers_[m].weight && !layers_[m].upstream.empty(); }

  StepForward forward_;
  std::optional<TailColumns<Number>> tail_;
  std::uint64_t memory_;
  double pass_seconds_ = 0;
  std::vector<LayerData<Number>> layers_;
  std::vector<std::int64_t> unit_begins_;  // of each batch, and the end
  std::int64_t units_ = 0;
  /// By layer and layer before it, J of its input: [element][u][outputs].
  std::map<std::pair<std::size_t, std::size_t>, std::vector<Number>> of_inputs_;
  std::vector<OutputOfLayer> expected_;
  std::size_t outputs_expected_ = 0;      // each once, where none is made again,
  std::set<OutputOfLayer> not_yet_made_;  // and those of them that no pass was made for
  std::map<OutputOfLayer, OutputFactors<Number>> made_;
  std::vector<Sums<Number>> of_rows_;
};

}  // namespace hessian_mpi::layers
