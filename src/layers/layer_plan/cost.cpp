#include "layer_plan/cost.hpp"

#include <algorithm>
#include <set>
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
    const bool downstream = contains(step.layers[m].upstream, l);
    const bool upstream = contains(step.layers[l].upstream, m);
    if (row.positions == 1 && !upstream) {
      total += row.rows * units * column.rows + row.outputs * of_places;
      continue;
    }
    const double summed = column.positions * column.outputs * (upstream ? 2 : 1) + (downstream ? column.elements : 0);
    total += row.rows * (units * row.positions * summed + of_places * (downstream ? 2 : 1));
  }
  return total;
}

// Notes which layers each depends on, where either makes rows.
void connect(const Network& network, LayerStep& step) {
  for (auto& layer : step.layers) {
    // A bias alone has no use for what the input depends on.
    if (!network.graph.call(layer.call).weight) continue;
    for (std::size_t m = 0; m < step.layers.size(); ++m) {
      const auto& other = step.layers[m];
      const bool wanted = layer.makes_rows || other.makes_rows;
      if (wanted && contains(network.upstream[layer.call], other.call)) layer.upstream.push_back(m);
    }
  }
}

// Multiplications of a pass: for what a pass is beside matrix products, as many as a core does in that time.
constexpr double pass_overhead = 4e6;
// In the products of a forward: what the passes have been measured to take, and tiles against LibTorch's small
// products.
constexpr double double_backward_row_forwards = 6;
constexpr double delta_pass_forwards = 4.5;
constexpr double input_pass_forwards = 2;
constexpr double tile_multiplication = 0.5;
// For each number of a row: to look at it, to write it.
constexpr double written_number = 50;

double cost_of_passes(const Network& network, double count, double forwards) {
  const double forward = multiplications_of_forward(network) * static_cast<double>(network.problem.batches());
  return count * (forwards * forward + pass_overhead);
}

double cost_of_writing_row(const Network& network) {
  return written_number * static_cast<double>(network.problem.index().size());
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
  const auto turn_of = [&](const Chosen& chosen) { return std::pair(chosen.unit, positions_of(network, chosen) == 1); };
  std::set<std::pair<Unit, bool>> turns;
  for (const auto& chosen : choice) turns.insert(turn_of(chosen));
  std::vector<LayerStep> steps;
  for (const auto& turn : turns) {
    LayerStep step{turn.first, {}};
    for (const auto& chosen : choice) {
      if (turn_of(chosen) < turn) continue;
      const bool last = turn.first != Unit::batch && samples_last[chosen.call];
      step.layers.push_back({chosen.call, last, turn_of(chosen) == turn, chosen.bias, {}});
    }
    connect(network, step);
    steps.push_back(std::move(step));
  }
  return steps;
}

Counts counts_of(const Network& network, const LayerStep& step) {
  Counts counts;
  const auto sizes = sizes_of(network, step);
  const auto all_units = units_of(network, step);
  double inputs = 0;
  double derivatives = 0;
  double outputs = 0;
  for (std::size_t l = 0; l < sizes.size(); ++l) {
    const auto& layer = step.layers[l];
    const auto& call = network.graph.call(layer.call);
    inputs += all_units * sizes[l].positions * static_cast<double>(weight_columns(call) * groups_of(call));
    if (!layer.upstream.empty()) counts.input_passes += static_cast<std::int64_t>(sizes[l].elements);
    for (const auto m : layer.upstream) {
      derivatives += all_units * sizes[l].elements * sizes[m].positions * sizes[m].outputs;
    }
    if (!layer.makes_rows) continue;
    counts.double_backward_rows -= static_cast<std::int64_t>(sizes[l].rows);
    counts.delta_passes += static_cast<std::int64_t>(sizes[l].outputs * sizes[l].positions);
    counts.assembly += multiplications(step, sizes, l, all_units);
    if (!call.by_input) continue;
    // Neighbouring rows are of different outputs, whose passes are all kept.
    double width = 0;
    for (std::size_t m = 0; m < sizes.size(); ++m) {
      width += sizes[m].positions * sizes[m].outputs + (contains(step.layers[m].upstream, l) ? sizes[m].elements : 0);
    }
    outputs += all_units * sizes[l].outputs * sizes[l].positions * width;
  }
  counts.inputs = static_cast<std::uint64_t>(inputs);
  counts.derivatives = static_cast<std::uint64_t>(derivatives);
  counts.outputs = static_cast<std::uint64_t>(outputs);
  return counts;
}

Counts counts_of(const Network& network, const Choice& choice) {
  Counts all;
  all.double_backward_rows = network.problem.index().size();
  const std::vector<bool> any_order(network.graph.forward().calls.size(), false);
  for (const auto& step : steps_of(network, choice, any_order)) {
    const auto counts = counts_of(network, step);
    all.double_backward_rows += counts.double_backward_rows;
    all.delta_passes += counts.delta_passes;
    all.input_passes += counts.input_passes;
    all.assembly += counts.assembly;
    if (counts.numbers() <= all.numbers()) continue;  // one step after the other
    all.inputs = counts.inputs;
    all.derivatives = counts.derivatives;
    all.outputs = counts.outputs;
  }
  return all;
}

double multiplications_of_forward(const Network& network) {
  double forward = 0;
  for (const auto& call : network.graph.forward().calls) {
    const auto products = call.embedding ? 1 : weight_columns(call);
    forward += static_cast<double>(call.output.numel() * products);
  }
  return forward;
}

double cost_of(const Network& network, const Counts& counts) {
  return cost_of_passes(network, static_cast<double>(counts.double_backward_rows), double_backward_row_forwards) +
         cost_of_passes(network, static_cast<double>(counts.delta_passes), delta_pass_forwards) +
         cost_of_passes(network, static_cast<double>(counts.input_passes), input_pass_forwards) +
         tile_multiplication * counts.assembly;
}

double cost_of_double_backward_row(const Network& network) {
  return cost_of_passes(network, 1, double_backward_row_forwards) + cost_of_writing_row(network);
}

std::map<std::size_t, double> costs_of_rows(const Network& network, const LayerStep& step) {
  std::map<std::size_t, double> costs;
  const auto sizes = sizes_of(network, step);
  for (std::size_t l = 0; l < sizes.size(); ++l) {
    if (!step.layers[l].makes_rows) continue;
    const auto& call = network.graph.call(step.layers[l].call);
    const double passes = sizes[l].outputs * sizes[l].positions / static_cast<double>(step.copies);
    const double of_passes =
        passes * (delta_pass_forwards * static_cast<double>(step.copies * network.problem.batches()) *
                      multiplications_of_forward(network) +
                  pass_overhead);
    const double of_products = tile_multiplication * multiplications(step, sizes, l, units_of(network, step));
    const double cost = (of_passes + of_products) / sizes[l].rows + cost_of_writing_row(network);
    if (call.weight) costs[*call.weight] = cost;
    if (call.bias && step.layers[l].has_bias) costs[*call.bias] = cost;
  }
  return costs;
}

std::map<std::size_t, std::int64_t> rows_together(const Network& network, const LayerStep& step) {
  std::map<std::size_t, std::int64_t> together;
  const LayerOrder order{step.unit, network.problem.batch_size(), false};
  for (const auto& layer : step.layers) {
    if (!layer.makes_rows) continue;
    const auto& call = network.graph.call(layer.call);
    const auto outputs = std::max<std::int64_t>(1, step.copies / positions_of(call, order));
    const auto columns = weight_columns(call);
    if (call.weight) together[*call.weight] = call.by_input ? outputs_of(call) : outputs * columns;
    if (call.bias && layer.has_bias) together[*call.bias] = outputs;
  }
  return together;
}

}  // namespace hessian_mpi::layers
