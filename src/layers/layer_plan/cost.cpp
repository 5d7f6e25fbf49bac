#include "layer_plan/cost.hpp"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "layer_factors/own_columns.hpp"
#include "layer_tail.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

bool contains(const std::vector<std::size_t>& list, std::size_t one) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

// Of a call's weight or bias; none where an earlier call has it.
std::int64_t own_parameters(const Network& network, std::size_t c, bool bias) {
  const auto& call = network.graph.call(c);
  const auto& parameter = bias ? call.bias : call.weight;
  if (!parameter || network.first_calls[*parameter] != c) return 0;
  return network.problem.parameters()[*parameter].numel();
}

std::int64_t parameters_in(const Network& network, std::size_t c) {
  return own_parameters(network, c, false) + own_parameters(network, c, true);
}

std::int64_t positions_of(const Network& network, const Chosen& chosen) {
  return positions_of(network.graph.call(chosen.call), {chosen.unit, network.problem.batch_size(), false});
}

/// A layer of a step in numbers.
struct Sizes {
  double rows = 0;       // parameters
  double positions = 0;  // in a unit
  double outputs = 0;
  double elements = 0;           // of a unit's input
  bool halved = false;           // half of its rows in its own columns are copied
  bool in_tail = false;          // of the step
  bool sums_directions = false;  // its rows, before these follow the tail: they are few then
  double words = 0;              // of an embedding
};

std::vector<Sizes> sizes_of(const Network& network, const LayerStep& step) {
  const LayerOrder order{step.unit, network.problem.batch_size(), false};
  std::vector<Sizes> sizes;
  for (const auto& layer : step.layers) {
    const auto& call = network.graph.call(layer.call);
    const auto positions = positions_of(call, order);
    sizes.push_back(
        {static_cast<double>(parameters_in(network, layer.call)), static_cast<double>(positions),
         static_cast<double>(outputs_of(call)), static_cast<double>(call.input.numel() / units_of(call, order)),
         step.halves && call.weight && has_halves(positions, call.by_input, call.elementwise, weight_columns(call)),
         step.tail && step.tail->columns_of(layer.call) != nullptr,
         step.tail && sums_before_tail(positions, call.by_input, weight_columns(call)),
         call.embedding ? static_cast<double>(weight_columns(call)) : 0});
  }
  return sizes;
}

// Of all batches; the same for all layers of a step.
double units_of(const Network& network, const LayerStep& step) {
  const LayerOrder order{step.unit, network.problem.batch_size(), false};
  return static_cast<double>(units_of(network.graph.call(step.layers.front().call), order) * network.problem.batches());
}

// A layer's rows in a step: by passes for its outputs, and by passes of their own.
struct RowCounts {
  double by_output = 0;
  double by_row = 0;
};

RowCounts rows_of_layer(const Network& network, const LayerStep& step, const std::vector<Sizes>& sizes, std::size_t l) {
  const auto weights = static_cast<double>(own_parameters(network, step.layers[l].call, false));
  const auto biases = static_cast<double>(own_parameters(network, step.layers[l].call, true));
  const bool by_row = step.layers[l].by_row;
  RowCounts rows;
  (by_row ? rows.by_row : rows.by_output) += weights;
  (by_row || sizes[l].positions > 1 ? rows.by_row : rows.by_output) += biases;
  return rows;
}

// Of a row in the columns of a layer, at one of its places: those of an embedding are of one word.
double multiplications_at_place(const Sizes& column) {
  constexpr double added_to_word = 4;
  return column.words > 0 ? added_to_word * column.outputs : column.rows;
}

// Of the units, those that a row has a part in: with few words most rows are of many.
double share_of_units(const Sizes& row) {
  return row.words > 0 ? std::min(1.0, row.positions / row.words) : 1;
}

// Of rows by outputs. At one position: one product with what is filled for all rows of an output. At several: what is
// summed over those for each row, and then what a row by itself takes.
double cost_of_products(const LayerStep& step, const std::vector<Sizes>& sizes, std::size_t l, double rows,
                        double units, bool by_input) {
  double products = 0;
  double sums = 0;
  for (std::size_t m = 0; m < sizes.size(); ++m) {
    const auto& column = sizes[m];
    const double of_places = units * multiplications_at_place(column) * column.positions;
    if (sizes[l].positions == 1 && sizes[l].words == 0 && column.words == 0) {
      products += rows * units * column.rows * (m == l && column.halved ? 0.5 : 1) + sizes[l].outputs * of_places;
      continue;
    }
    const double downstream = contains(step.layers[m].upstream, l) ? 1 : 0;
    if (!sizes[l].sums_directions || !column.in_tail) {
      sums += rows * units * sizes[l].positions * (column.positions * column.outputs + downstream * column.elements);
    }
    products += rows * share_of_units(sizes[l]) * of_places * (1 + downstream);
  }
  return tile_multiplication * products + (by_input ? summed_for_a_row : summed_for_rows) * sums;
}

// Of a row by itself: a product, or two where the column's input depends on the row's output.
double multiplications_of_row(const LayerStep& step, const std::vector<Sizes>& sizes, std::size_t l, double units) {
  double total = 0;
  for (std::size_t m = 0; m < sizes.size(); ++m) {
    const bool downstream = step.whole ? !step.layers[m].upstream.empty() : contains(step.layers[m].upstream, l);
    total += units * multiplications_at_place(sizes[m]) * sizes[m].positions * (downstream ? 2 : 1);
  }
  return total;
}

// A layer has those before it as columns in its own step where these take no more units and bytes of derivatives of its
// input: else its columns are copied from their rows, which takes as long as so many units do, and where the half of a
// matrix is so many numbers that they may have to be read back from the file, as long as some more.
constexpr std::int64_t most_units_of_own_columns = 64;
constexpr double much_of_matrix = 1 << 28;
constexpr std::int64_t most_units_where_much = 128;
constexpr std::int64_t most_bytes_of_own_columns = 64 << 20;
// A backward pass for an element of an input, against a double-backward.
constexpr double input_pass = 0.15;

const OperatorCounts& pass_from(const Network& network, const LayerStep& step, std::size_t l) {
  const auto c = step.layers[l].call;
  return step.tail ? *network.passes_round_tail[c] : network.passes[c];
}

// As a pass that goes through the whole network, where one has been counted.
double cost_of_double_backward_rows(const Network& network, double count) {
  constexpr double row_forwards = 6;
  double cost = 0;
  for (const auto& pass : network.passes) cost = std::max(cost, cost_of_pass(pass, 1));
  if (cost == 0) cost = row_forwards * multiplications_of_forward(network.graph.forward()) + pass_overhead;
  return count * cost * static_cast<double>(network.problem.batches());
}

// For so many outputs at a position, or rows; a pass serves one for each copy of a batch.
double cost_of_passes(const Network& network, const LayerStep& step, std::size_t l, double count) {
  double cost = cost_of_pass(pass_from(network, step, l), step.copies);
  for (std::size_t k = 0; step.whole && k < step.row_layers; ++k) {
    cost = std::max(cost, cost_of_pass(pass_from(network, step, k), step.copies));
  }
  return count * cost * static_cast<double>(network.problem.batches());
}

double cost_by_outputs(const Network& network, const LayerStep& step, const std::vector<Sizes>& sizes, std::size_t l) {
  const double rows = rows_of_layer(network, step, sizes, l).by_output;
  return cost_of_passes(network, step, l, sizes[l].outputs * sizes[l].positions) +
         cost_of_products(step, sizes, l, rows, units_of(network, step),
                          network.graph.call(step.layers[l].call).by_input);
}

double cost_by_row(const Network& network, const LayerStep& step, const std::vector<Sizes>& sizes, std::size_t l) {
  return cost_of_passes(network, step, l, 1) +
         tile_multiplication * multiplications_of_row(step, sizes, l, units_of(network, step));
}

double cost_of_writing_row(const Network& network) {
  return written_number * static_cast<double>(network.problem.index().size());
}

// Whether one rank keeps what passes find for all outputs of a layer, between the rows of its weight and of its bias.
bool keeps_outputs(const Network& network, const LayerStep& step, std::size_t l) {
  constexpr double memory = 64 << 20;
  const auto sizes = sizes_of(network, step);
  double numbers = 0;
  for (std::size_t m = 0; m < sizes.size(); ++m) {
    numbers += sizes[m].positions * sizes[m].outputs + (contains(step.layers[m].upstream, l) ? sizes[m].elements : 0);
  }
  return sizes[l].outputs * sizes[l].positions * units_of(network, step) * numbers * sizeof(double) <= memory;
}

// In the order that they are made in, with units that no layer crosses on the way. Rows in all
// columns are made first: what shares parameters cannot be a column before others, and the rest need not.
Choice in_order_of_steps(const Network& network, Choice choice) {
  for (auto later = choice.rbegin(); later != choice.rend(); ++later) {
    for (auto& earlier : choice) {
      if (contains(network.upstream[later->call], earlier.call)) earlier.unit = std::min(earlier.unit, later->unit);
    }
  }
  std::stable_sort(choice.begin(), choice.end(), [](const Chosen& a, const Chosen& b) { return a.unit < b.unit; });
  if (choice.empty()) return choice;
  const auto least = choice.front().unit;
  for (auto& chosen : choice) {
    if (chosen.whole_set) chosen.unit = least;
  }
  std::stable_sort(choice.begin(), choice.end(), [](const Chosen& a, const Chosen& b) {
    return a.whole_set && b.whole_set ? std::pair(*a.whole_set, a.call) < std::pair(*b.whole_set, b.call)
                                      : a.whole_set && !b.whole_set;
  });
  return choice;
}

// Whether a layer makes its rows in the step of these before it.
bool joins(const Network& network, const Chosen& layer, std::span<const Chosen> before) {
  if (layer.whole_set || before.front().whole_set) return layer.whole_set == before.front().whole_set;
  const auto& call = network.graph.call(layer.call);
  const LayerOrder order{layer.unit, network.problem.batch_size(), false};
  const auto units = units_of(call, order) * network.problem.batches();
  const auto n = static_cast<double>(network.problem.index().size());
  const auto most_units = n * n / 2 < much_of_matrix ? most_units_of_own_columns : most_units_where_much;
  if (layer.by_row || units > most_units || positions_of(network, layer) > 1) return false;
  std::int64_t numbers = 0;
  for (const auto& other : before) {
    if (other.by_row || other.unit != layer.unit || positions_of(network, other) > 1) return false;
    numbers += units * call.input.numel() / units_of(call, order) * outputs_of(network.graph.call(other.call));
  }
  return numbers * static_cast<std::int64_t>(sizeof(double)) <= most_bytes_of_own_columns;
}

// Passes that keep samples apart, and positions not, may go round what comes after positions meet.
bool goes_round_tail(const Network& network, const LayerStep& step) {
  const auto rows = std::span(step.layers).first(step.row_layers);
  return network.tail && step.unit == Unit::sample && std::all_of(rows.begin(), rows.end(), [&](const auto& layer) {
           return network.passes_round_tail[layer.call].has_value();
         });
}

}  // namespace

double cost_of_pass(const OperatorCounts& pass, std::int64_t copies) {
  return pass.products + operator_number * pass.numbers + operator_call * pass.calls / static_cast<double>(copies);
}

Choice without(Choice choice, std::size_t call) {
  const auto found = std::find_if(choice.begin(), choice.end(), [=](const Chosen& c) { return c.call == call; });
  if (found == choice.end()) return choice;
  const auto set = found->whole_set;
  std::erase_if(choice, [=](const Chosen& c) { return c.call == call || (set && c.whole_set == set); });
  return choice;
}

std::int64_t parameters_in(const Network& network, const Choice& choice) {
  std::int64_t count = 0;
  for (const auto& chosen : choice) count += parameters_in(network, chosen.call);
  return count;
}

std::vector<LayerStep> steps_of(const Network& network, const Choice& choice, const std::vector<bool>& samples_last) {
  const auto order = in_order_of_steps(network, choice);
  std::vector<LayerStep> steps;
  for (std::size_t first = 0; first < order.size(); first += steps.back().row_layers) {
    LayerStep step{order[first].unit, {}};
    step.whole = order[first].whole_set.has_value();
    while (first + step.row_layers < order.size() &&
           joins(network, order[first + step.row_layers], std::span(order).subspan(first, step.row_layers))) {
      ++step.row_layers;
    }
    for (auto k = first; k < order.size(); ++k) {
      const auto& [c, unit, by_row, whole_set] = order[k];
      auto& layer = step.layers.emplace_back(FactoredLayer{c, step.unit != Unit::batch && samples_last[c], by_row, {}});
      // A bias alone has no use for what the input depends on.
      for (std::size_t l = 0; l < step.row_layers && network.graph.call(c).weight; ++l) {
        if (contains(network.upstream[c], order[first + l].call)) layer.upstream.push_back(l);
      }
    }
    if (goes_round_tail(network, step)) step.tail = network.tail;
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
    inputs +=
        all_units * sizes[m].positions * static_cast<double>(call.weight ? weight_columns(call) * groups_of(call) : 0);
    const bool downstream = step.whole ? !step.layers[m].upstream.empty() : contains(step.layers[m].upstream, l);
    width += sizes[m].positions * sizes[m].outputs + (downstream ? sizes[m].elements : 0);
  }
  const auto& row = sizes[l];
  const auto rows = rows_of_layer(network, step, sizes, l);
  const auto copies = static_cast<double>(step.copies);
  counts.double_backward_rows = -static_cast<std::int64_t>(row.rows);
  counts.inputs = static_cast<std::uint64_t>(inputs);
  if (rows.by_output > 0) {
    const auto& call = network.graph.call(step.layers[l].call);
    const double together = std::max(1.0, copies / row.positions);
    const double at_a_time = call.by_input ? row.outputs : together;  // neighbouring rows are of different ones
    const bool comes_back = call.by_input || (call.bias && row.positions == 1);
    counts.passes += static_cast<std::int64_t>(row.outputs * row.positions);
    counts.factored += cost_by_outputs(network, step, sizes, l);
    const double of_output = all_units * row.positions * width;
    counts.outputs = static_cast<std::uint64_t>(of_output * at_a_time);
    counts.kept = static_cast<std::uint64_t>(of_output * (comes_back ? row.outputs : together));
  }
  counts.passes += static_cast<std::int64_t>(rows.by_row);
  counts.outputs =
      std::max(counts.outputs,
               static_cast<std::uint64_t>(
                   rows.by_row > 0 ? all_units * width * static_cast<double>(rows_at_once_in_a_batch(step)) : 0));
  counts.factored += rows.by_row * cost_by_row(network, step, sizes, l);
  if (l < step.row_layers && !step.whole && !step.layers[l].upstream.empty()) {
    counts.passes += static_cast<std::int64_t>(row.elements);
    counts.factored += input_pass * cost_of_passes(network, step, 0, row.elements);
  }
  return counts;
}

namespace {

// One after the other.
void add(const Counts& some, Counts& all) {
  all.double_backward_rows += some.double_backward_rows;
  all.passes += some.passes;
  all.factored += some.factored;
  all.inputs = std::max(all.inputs, some.inputs);
  all.outputs = std::max(all.outputs, some.outputs);
  all.kept += some.kept;
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

std::vector<std::size_t> calls_with_outputs_above(std::uint64_t most, const Network& network, const Choice& choice) {
  std::vector<std::size_t> calls;
  const std::vector<bool> any_order(network.graph.forward().calls.size(), false);
  for (const auto& step : steps_of(network, choice, any_order)) {
    for (std::size_t l = 0; l < step.row_layers; ++l) {
      if (counts_of(network, step, l).outputs > most) calls.push_back(step.layers[l].call);
    }
  }
  return calls;
}

double multiplications_of_forward(const CapturedForward& forward) {
  double sum = 0;
  for (const auto& call : forward.calls) {
    const auto products = call.embedding || call.elementwise ? 1 : weight_columns(call);
    sum += static_cast<double>(call.output.numel() * products);
  }
  return sum;
}

double cost_of(const Network& network, const Counts& counts) {
  return cost_of_double_backward_rows(network, static_cast<double>(counts.double_backward_rows)) + counts.factored;
}

Work work_of_double_backward_row(const Network& network) {
  return {cost_of_double_backward_rows(network, 1), cost_of_writing_row(network)};
}

WorkOfRow work_of_row(const Network& network, const LayerStep& step, std::size_t l, bool handed) {
  const auto sizes = sizes_of(network, step);
  const auto rows = rows_of_layer(network, step, sizes, l).by_output;
  const auto work = [&](double passes, double products) {
    return Work{passes, products + cost_of_writing_row(network)};
  };
  const auto by_row = work(cost_of_passes(network, step, l, 1),
                           multiplication_for_a_row * multiplications_of_row(step, sizes, l, units_of(network, step)));
  if (rows == 0) return {by_row, by_row};
  const double passes = cost_of_passes(network, step, l, sizes[l].outputs * sizes[l].positions);
  const double products = (cost_by_outputs(network, step, sizes, l) - passes) / rows;
  const auto biases = static_cast<double>(own_parameters(network, step.layers[l].call, true));
  if (handed && sizes[l].positions == 1 && rows > biases) {
    const double times = biases > 0 && !keeps_outputs(network, step, l) ? 2 : 1;
    const double of_weight = times * passes / (rows - biases);
    return {work(of_weight, products), work(0, products)};
  }
  const auto by_output = work(passes / rows, products);
  return {by_output, by_row};  // a bias' rows come after those of the weight, when their passes are forgotten
}

RowsTogether rows_together(const Network& network, const LayerStep& step, std::size_t l) {
  const auto& call = network.graph.call(step.layers[l].call);
  const auto positions = positions_of(call, {step.unit, network.problem.batch_size(), false});
  const auto outputs = std::max<std::int64_t>(1, step.copies / positions);
  const bool by_row = step.layers[l].by_row;
  const auto rows = rows_at_once_in_a_batch(step);
  const auto of_weight = by_row ? rows : call.by_input ? outputs_of(call) : outputs * weight_columns(call);
  return {of_weight, by_row || positions > 1 ? rows : outputs};
}

OutputsOfRows outputs_of_rows(const Network& network, const LayerStep& step, std::size_t l) {
  const auto& call = network.graph.call(step.layers[l].call);
  if (!call.weight || step.layers[l].by_row || step.whole) return {};
  const auto positions = positions_of(call, {step.unit, network.problem.batch_size(), false});
  const auto outputs = outputs_of(call);
  const bool apart = call.by_input && groups_of(call) == 1;
  return {apart ? outputs : 0, positions > 1 || (call.by_input && !apart) ? 0 : outputs,
          std::max<std::int64_t>(1, step.copies / positions)};
}

}  // namespace hessian_mpi::layers
