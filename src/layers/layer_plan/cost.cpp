#include "layer_plan/cost.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

bool contains(const std::vector<std::size_t>& list, std::size_t one) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

std::int64_t parameters_in(const Network& network, std::size_t c, bool with_bias) {
  const auto& call = network.graph.call(c);
  const auto& parameters = network.problem.parameters();
  return (call.weight ? parameters[*call.weight].numel() : 0) +
         (call.bias && with_bias ? parameters[*call.bias].numel() : 0);
}

std::int64_t positions_of(const Network& network, const Chosen& chosen) {
  return positions_of(network.graph.call(chosen.call), {chosen.unit, network.problem.batch_size(), false});
}

/// A layer of a step in numbers.
struct Sizes {
  double rows = 0;       // parameters
  double positions = 0;  // in a unit
  double outputs = 0;
  double elements = 0;  // of a unit's input
};

std::vector<Sizes> sizes_of(const Network& network, const LayerStep& step) {
  const LayerOrder order{step.unit, network.problem.batch_size(), false};
  std::vector<Sizes> sizes;
  for (const auto& layer : step.layers) {
    const auto& call = network.graph.call(layer.call);
    sizes.push_back({static_cast<double>(parameters_in(network, layer.call, layer.has_bias)),
                     static_cast<double>(positions_of(call, order)), static_cast<double>(outputs_of(call)),
                     static_cast<double>(call.input.numel() / units_of(call, order))});
  }
  return sizes;
}

// Of all batches; the same for all layers of a step.
double units_of(const Network& network, const LayerStep& step) {
  const LayerOrder order{step.unit, network.problem.batch_size(), false};
  return static_cast<double>(units_of(network.graph.call(step.layers.front().call), order) * network.problem.batches());
}

// Of rows at one position: one product with what is filled for all rows of an output. Of rows at several: what is
// summed over those for each row, and then one product, or two where the column's input depends on the row's output.
double multiplications(const LayerStep& step, const std::vector<Sizes>& sizes, std::size_t l, double units) {
  const auto& row = sizes[l];
  double total = 0;
  for (std::size_t m = 0; m < sizes.size(); ++m) {
    const auto& column = sizes[m];
    const double of_places = units * column.rows * column.positions;
    if (row.positions == 1) {
      total += row.rows * units * column.rows + row.outputs * of_places;
      continue;
    }
    const double downstream = contains(step.layers[m].upstream, l) ? 1 : 0;
    const double summed = column.positions * column.outputs + downstream * column.elements;
    total += row.rows * (units * row.positions * summed + of_places * (1 + downstream));
  }
  return total;
}

// Multiplications of a pass: for what a pass is beside matrix products, as many as a core does in that time.
constexpr double pass_overhead = 4e6;
// A layer has those before it as columns in its own step where these take no more units and bytes of derivatives of its
// input: else its columns are copied from their rows, which takes as long as so many units do.
constexpr std::int64_t most_units_of_own_columns = 128;
constexpr std::int64_t most_bytes_of_own_columns = 64 << 20;
// In the products of a forward: what the passes have been measured to take, and tiles against LibTorch's small
// products.
constexpr double double_backward_row_forwards = 6;
constexpr double delta_pass_forwards = 4.5;
constexpr double tile_multiplication = 0.5;
// For each number of a row: to look at it, to write it.
constexpr double written_number = 50;

double cost_of_double_backward_rows(const Network& network, double count) {
  const double forward = multiplications_of_forward(network) * static_cast<double>(network.problem.batches());
  return count * (double_backward_row_forwards * forward + pass_overhead);
}

// Each for so many copies of a batch. What comes before the layer has no part in them.
double cost_of_passes(const Network& network, const LayerStep& step, std::size_t l, double count) {
  const double forward = multiplications_of_forward(network, step.layers[l].call) *
                         static_cast<double>(network.problem.batches() * step.copies);
  return count * (delta_pass_forwards * forward + pass_overhead);
}

double cost_of_writing_row(const Network& network) {
  return written_number * static_cast<double>(network.problem.index().size());
}

// In the order that they are made in, with units that no layer crosses on the way.
Choice in_order_of_steps(const Network& network, Choice choice) {
  for (auto later = choice.rbegin(); later != choice.rend(); ++later) {
    for (auto& earlier : choice) {
      if (contains(network.upstream[later->call], earlier.call)) earlier.unit = std::min(earlier.unit, later->unit);
    }
  }
  std::stable_sort(choice.begin(), choice.end(), [](const Chosen& a, const Chosen& b) { return a.unit < b.unit; });
  return choice;
}

// Whether a layer makes its rows in the step of these before it.
bool joins(const Network& network, const Chosen& layer, std::span<const Chosen> before) {
  const auto& call = network.graph.call(layer.call);
  const LayerOrder order{layer.unit, network.problem.batch_size(), false};
  const auto units = units_of(call, order) * network.problem.batches();
  if (units > most_units_of_own_columns || positions_of(network, layer) > 1) return false;
  std::int64_t numbers = 0;
  for (const auto& other : before) {
    if (other.unit != layer.unit || positions_of(network, other) > 1) return false;
    numbers += units * call.input.numel() / units_of(call, order) * outputs_of(network.graph.call(other.call));
  }
  return numbers * static_cast<std::int64_t>(sizeof(double)) <= most_bytes_of_own_columns;
}

}  // namespace

Choice without(Choice choice, std::size_t call) {
  std::erase_if(choice, [=](const Chosen& chosen) { return chosen.call == call; });
  return choice;
}

std::int64_t parameters_in(const Network& network, const Choice& choice) {
  std::int64_t count = 0;
  for (const auto& chosen : choice) count += parameters_in(network, chosen.call, chosen.bias);
  return count;
}

bool is_cheaper_without_bias(const Network& network, const Chosen& chosen) {
  const auto& call = network.graph.call(chosen.call);
  return call.weight && call.bias && positions_of(network, chosen) > 1;
}

std::vector<LayerStep> steps_of(const Network& network, const Choice& choice, const std::vector<bool>& samples_last) {
  const auto order = in_order_of_steps(network, choice);
  std::vector<LayerStep> steps;
  for (std::size_t first = 0; first < order.size(); first += steps.back().row_layers) {
    LayerStep step{order[first].unit, {}};
    while (first + step.row_layers < order.size() &&
           joins(network, order[first + step.row_layers], std::span(order).subspan(first, step.row_layers))) {
      ++step.row_layers;
    }
    for (auto k = first; k < order.size(); ++k) {
      const auto& [c, unit, bias] = order[k];
      auto& layer = step.layers.emplace_back(FactoredLayer{c, step.unit != Unit::batch && samples_last[c], bias, {}});
      // A bias alone has no use for what the input depends on.
      for (std::size_t l = 0; l < step.row_layers && network.graph.call(c).weight; ++l) {
        if (contains(network.upstream[c], order[first + l].call)) layer.upstream.push_back(l);
      }
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

Counts counts_of(const Network& network, const LayerStep& step, std::size_t l) {
  Counts counts;
  const auto sizes = sizes_of(network, step);
  const auto all_units = units_of(network, step);
  double inputs = 0;
  double width = 0;  // of what an output has at a place
  for (std::size_t m = 0; m < sizes.size(); ++m) {
    const auto& call = network.graph.call(step.layers[m].call);
    inputs += all_units * sizes[m].positions * static_cast<double>(weight_columns(call) * groups_of(call));
    width += sizes[m].positions * sizes[m].outputs + (contains(step.layers[m].upstream, l) ? sizes[m].elements : 0);
  }
  const auto& row = sizes[l];
  const double outputs_at_a_time = network.graph.call(step.layers[l].call).by_input
                                       ? row.outputs  // neighbouring rows are of different ones
                                       : std::max(1.0, static_cast<double>(step.copies) / row.positions);
  counts.double_backward_rows = -static_cast<std::int64_t>(row.rows);
  counts.passes = static_cast<std::int64_t>(row.outputs * row.positions);
  counts.of_passes = cost_of_passes(network, step, l, row.outputs * row.positions / static_cast<double>(step.copies));
  if (l < step.row_layers && !step.layers[l].upstream.empty()) {
    counts.passes += static_cast<std::int64_t>(row.elements);
    counts.of_passes += cost_of_passes(network, step, 0, row.elements) / 2;
  }
  counts.assembly = multiplications(step, sizes, l, all_units);
  counts.inputs = static_cast<std::uint64_t>(inputs);
  counts.outputs = static_cast<std::uint64_t>(all_units * row.positions * width * outputs_at_a_time);
  return counts;
}

namespace {

// One after the other.
void add(const Counts& some, Counts& all) {
  all.double_backward_rows += some.double_backward_rows;
  all.passes += some.passes;
  all.of_passes += some.of_passes;
  all.assembly += some.assembly;
  all.inputs = std::max(all.inputs, some.inputs);
  all.outputs = std::max(all.outputs, some.outputs);
}

}  // namespace

Counts counts_of(const Network& network, const LayerStep& step) {
  Counts all;
  for (std::size_t l = 0; l < step.row_layers; ++l) add(counts_of(network, step, l), all);
  return all;
}

Counts counts_of(const Network& network, const Choice& choice) {
  Counts all;
  all.double_backward_rows = network.problem.index().size();
  const std::vector<bool> any_order(network.graph.forward().calls.size(), false);
  for (const auto& step : steps_of(network, choice, any_order)) add(counts_of(network, step), all);
  return all;
}

double multiplications_of_forward(const Network& network, std::size_t first) {
  double forward = 0;
  const auto& calls = network.graph.forward().calls;
  for (auto c = first; c < calls.size(); ++c) {
    const auto products = calls[c].embedding ? 1 : weight_columns(calls[c]);
    forward += static_cast<double>(calls[c].output.numel() * products);
  }
  return forward;
}

double cost_of(const Network& network, const Counts& counts) {
  return cost_of_double_backward_rows(network, static_cast<double>(counts.double_backward_rows)) + counts.of_passes +
         tile_multiplication * counts.assembly;
}

double cost_of_double_backward_row(const Network& network) {
  return cost_of_double_backward_rows(network, 1) + cost_of_writing_row(network);
}

double cost_of_row(const Network& network, const LayerStep& step, std::size_t l) {
  const auto counts = counts_of(network, step, l);
  return (counts.of_passes + tile_multiplication * counts.assembly) /
             static_cast<double>(-counts.double_backward_rows) +
         cost_of_writing_row(network);
}

RowsTogether rows_together(const Network& network, const LayerStep& step, std::size_t l) {
  const auto& call = network.graph.call(step.layers[l].call);
  const auto outputs =
      std::max<std::int64_t>(1, step.copies / positions_of(call, {step.unit, network.problem.batch_size(), false}));
  return {call.by_input ? outputs_of(call) : outputs * weight_columns(call), outputs};
}

}  // namespace hessian_mpi::layers
