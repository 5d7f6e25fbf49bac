#include "layer_factors/factors.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <span>
#include <utility>

#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/engines/tile.hpp"
#include "number.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

constexpr std::int64_t bytes_of_rows = 64 << 20;

// So many follow the tail together, that its matrices are read seldom.
constexpr std::size_t most_directions = 64;

// Behind numbers that are read as rows of a factor.
template <class Number>
constexpr std::int64_t padding = engines::Strips<Number>::width;

template <class Number>
void append(const Tensor& tensor, std::vector<Number>& numbers) {
  const Tensor dense = tensor.to(at::kCPU, dtype_of_number<Number>).contiguous();
  const auto* begin = dense.const_data_ptr<Number>();
  numbers.insert(numbers.end(), begin, begin + dense.numel());
}

// Of each row the column that is not zero.
void append_words(const Tensor& ones, std::vector<std::int64_t>& words) {
  const Tensor places = ones.to(at::kCPU).flatten(0, -2);
  const Tensor found = places.argmax(-1).masked_fill(places.any(-1).logical_not(), -1).contiguous();
  const auto* begin = found.const_data_ptr<std::int64_t>();
  words.insert(words.end(), begin, begin + found.numel());
}

}  // namespace

template <class Number>
Factors<Number>::Factors(const network::Problem& problem, const LayerStep& step, std::uint64_t memory)
    : forward_(problem, step), memory_(memory) {
  read_layers();
}

template <class Number>
void Factors<Number>::read_layers() {
  layers_.resize(step().layers.size());
  unit_begins_ = {0};
  for (std::int64_t b = 0; b < forward_.batches(); ++b) append_batch(forward_.graph(b, 1), b);
  units_ = unit_begins_.back();
  for (auto& layer : layers_) {
    layer.delta.resize(layer.delta.size() + padding<Number>);
    for (auto& inputs : layer.inputs) inputs.resize(inputs.size() + padding<Number>);
  }
  if (step().tail) tail_.emplace(*step().tail, units_);
  if (whole()) return;
  for (std::size_t l = 0; l < step().row_layers; ++l) {
    for (const auto m : layers_[l].upstream) {
      of_inputs_[{l, m}].resize(static_cast<std::size_t>(layers_[l].elements * units_ * layers_[m].outputs));
    }
  }
  for (std::int64_t b = 0; b < forward_.batches(); ++b) {
    for (std::size_t l = 0; l < step().row_layers; ++l) derive_inputs(l, b);
  }
}

template <class Number>
void Factors<Number>::expect(std::vector<OutputOfLayer> outputs) {
  expected_ = std::move(outputs);
  not_yet_made_ = {expected_.begin(), expected_.end()};
  std::size_t bytes = 0;
  for (const auto& [l, output] : not_yet_made_) bytes += serves_once(l) ? 0 : numbers_of_output(l) * sizeof(Number);
  if (bytes > memory_) not_yet_made_.clear();
  outputs_expected_ = not_yet_made_.size();
}

template <class Number>
engines::Passes Factors<Number>::passes() const {
  if (outputs_expected_ == 0) return {pass_seconds_};
  return {pass_seconds_, 1 - static_cast<double>(not_yet_made_.size()) / static_cast<double>(outputs_expected_)};
}

template <class Number>
bool Factors<Number>::depends(std::size_t m, std::size_t l) const {
  const auto& upstream = layers_[m].upstream;
  return std::find(upstream.begin(), upstream.end(), l) != upstream.end();
}

template <class Number>
const Number* Factors<Number>::input_derivative(std::size_t l, std::int64_t element, std::size_t m) const {
  return of_inputs_.at({l, m}).data() + element * units_ * layers_[m].outputs;
}

// One backward pass for each element of a layer's input, for all units of a batch at once.
template <class Number>
void Factors<Number>::derive_inputs(std::size_t l, std::int64_t batch) {
  if (layers_[l].upstream.empty()) return;
  const auto& graph = forward_.graph(batch, 1);
  const auto& call = graph.call(step().layers[l].call);
  const auto own = forward_.order(l, batch, 1);
  std::vector<std::size_t> targets;
  for (const auto m : layers_[l].upstream) targets.push_back(step().layers[m].call);
  for (std::int64_t element = 0; element < layers_[l].elements; ++element) {
    Tensor cotangent = at::zeros({units_of(call, own), layers_[l].elements}, call.input.options());
    cotangent.select(1, element).fill_(1);
    const auto found = graph.input_derivatives(step().layers[l].call, input_from_units(cotangent, call, own), targets);
    for (std::size_t k = 0; k < targets.size(); ++k) {
      if (!found[k].defined()) continue;
      const auto m = layers_[l].upstream[k];
      const Tensor ordered = output_by_unit(found[k], graph.call(targets[k]), forward_.order(m, batch, 1))
                                 .to(at::kCPU, dtype_of_number<Number>)
                                 .contiguous();
      std::copy_n(ordered.template const_data_ptr<Number>(), ordered.numel(),
                  of_inputs_[{l, m}].data() + (element * units_ + units_before(batch)) * layers_[m].outputs);
    }
  }
}

template <class Number>
void Factors<Number>::append_batch(const LayerGraph& graph, std::int64_t batch) {
  std::int64_t units = 0;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto& call = graph.call(step().layers[l].call);
    const auto own = forward_.order(l, batch, 1);
    auto& layer = layers_[l];
    units = units_of(call, own);
    if (batch == 0) {
      layer.weight = call.weight;
      layer.bias = call.bias;
      layer.by_input = call.by_input;
      layer.elementwise = call.elementwise;
      layer.embedding = call.embedding;
      layer.positions = positions_of(call, own);
      layer.outputs = outputs_of(call);
      layer.outputs_of_group = outputs_of_group(call);
      layer.columns = weight_columns(call);
      layer.elements = call.input.numel() / units;
      layer.upstream = step().layers[l].upstream;
      for (std::int64_t g = 0; g < groups_of(call); ++g) layer.first_outputs.push_back(first_output_of(call, g));
      layer.inputs.resize(layer.first_outputs.size());
      layer.input_elements.resize(layer.inputs.size());
    }
    for (std::size_t g = 0; call.weight && g < layer.inputs.size(); ++g) {
      const Tensor patches = input_patches(call, static_cast<std::int64_t>(g), own);
      append(patches, layer.inputs[g]);
      if (call.embedding) append_words(patches, layer.words);
      if (batch > 0) continue;
      const Tensor elements = patch_elements(call, static_cast<std::int64_t>(g), own).contiguous();
      const auto* begin = elements.template const_data_ptr<std::int64_t>();
      layer.input_elements[g].assign(begin, begin + elements.numel());
      layer.sees_input_as_it_is =
          layer.inputs.size() == 1 && elements.reshape(-1).equal(at::arange(layer.elements, at::kLong));
    }
    append(output_by_unit(graph.delta(step().layers[l].call), call, own), layer.delta);
  }
  unit_begins_.push_back(unit_begins_.back() + units);
}

template <class Number>
std::size_t Factors<Number>::numbers_of_output(std::size_t l) const {
  std::int64_t numbers = keeps_directions(l) ? tail_->numbers_of_direction() : 0;
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    if (sums_directions(l, m)) continue;
    numbers += layers_[m].positions * layers_[m].outputs + (depends(m, l) ? layers_[m].elements : 0);
  }
  return static_cast<std::size_t>(units_ * layers_[l].positions * numbers);
}

// Outputs that the same passes serve, counted from a layer's first: which they are must not depend on what is asked
// for.
template <class Number>
std::int64_t Factors<Number>::outputs_at_once(std::size_t l) const {
  return std::max<std::int64_t>(1, step().copies / layers_[l].positions);
}

template <class Number>
OutputOfLayer Factors<Number>::first_made_with(const OutputOfLayer& output) const {
  const auto at_once = outputs_at_once(output.first);
  return {output.first, output.second / at_once * at_once};
}

template <class Number>
std::vector<OutputOfLayer> Factors<Number>::made_with(const OutputOfLayer& output) const {
  const auto [l, first] = first_made_with(output);
  std::vector<OutputOfLayer> outputs;
  for (auto p = first; p < std::min(first + outputs_at_once(l), layers_[l].outputs); ++p) outputs.emplace_back(l, p);
  return outputs;
}

// With several batches, what else is expected next and fits: all of it for one forward of each batch. The first of each
// that is made at once.
template <class Number>
std::vector<OutputOfLayer> Factors<Number>::made_next(const OutputOfLayer& output) const {
  std::vector<OutputOfLayer> firsts{first_made_with(output)};
  if (forward_.batches() == 1) return firsts;
  std::size_t bytes = made_with(firsts.front()).size() * numbers_of_output(output.first) * sizeof(Number);
  for (auto next = std::find(expected_.begin(), expected_.end(), output); next != expected_.end(); ++next) {
    const auto first = first_made_with(*next);
    if (std::find(firsts.begin(), firsts.end(), first) != firsts.end()) continue;
    bytes += made_with(first).size() * numbers_of_output(first.first) * sizeof(Number);
    if (bytes > memory_) break;
    firsts.push_back(first);
  }
  return firsts;
}

// Neighbouring rows alone ask for an output then: rows of a bias have passes of their own, or there are none.
template <class Number>
bool Factors<Number>::serves_once(std::size_t l) const {
  return !layers_[l].by_input && (layers_[l].positions > 1 || !layers_[l].bias);
}

// To be written whole, in the memory of others.
template <class Number>
OutputFactors<Number> Factors<Number>::prepared(const OutputOfLayer& output, OutputFactors<Number> factors) const {
  const auto places = units_ * layers_[output.first].positions;
  factors.second.resize(layers_.size());
  factors.derivatives.resize(layers_.size());
  factors.directions.resize(
      static_cast<std::size_t>(keeps_directions(output.first) ? places * tail_->numbers_of_direction() : 0));
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    const auto& layer = layers_[m];
    if (sums_directions(output.first, m)) continue;
    factors.second[m].resize(static_cast<std::size_t>(places * layer.positions * layer.outputs + padding<Number>));
    factors.derivatives[m].resize(
        depends(m, output.first) ? static_cast<std::size_t>(places * layer.elements + padding<Number>) : 0);
  }
  return factors;
}

// Forgets what is not needed or does not fit, whose memory is near, and would have to be cleared by the system again.
template <class Number>
void Factors<Number>::prepare(const std::vector<OutputOfLayer>& outputs) {
  std::size_t bytes = 0;
  for (const auto& output : outputs) bytes += numbers_of_output(output.first) * sizeof(Number);
  for (const auto& [made, factors] : made_) bytes += numbers_of_output(made.first) * sizeof(Number);
  std::map<OutputOfLayer, OutputFactors<Number>> forgotten;
  if (bytes > memory_ || serves_once(outputs.front().first)) forgotten.swap(made_);
  for (const auto& output : outputs) {
    OutputFactors<Number> memory;
    if (!forgotten.empty()) memory = std::move(forgotten.extract(forgotten.begin()).mapped());
    made_[output] = prepared(output, std::move(memory));
    not_yet_made_.erase(output);
  }
}

template <class Number>
const OutputFactors<Number>& Factors<Number>::of_output(const OutputOfLayer& output) {
  if (const auto found = made_.find(output); found != made_.end()) return found->second;
  const auto firsts = made_next(output);
  std::vector<OutputOfLayer> outputs;
  for (const auto& first : firsts) {
    const auto made = made_with(first);
    outputs.insert(outputs.end(), made.begin(), made.end());
  }
  prepare(outputs);
  for (std::int64_t b = 0; b < forward_.batches(); ++b) {
    for (const auto& first : firsts) make_second(made_with(first), b);
  }
  return made_[output];
}

// S and J of outputs that are made at once.
template <class Number>
void Factors<Number>::make_second(const std::vector<OutputOfLayer>& outputs, std::int64_t batch) {
  std::vector<OutputAt> places;
  for (const auto& output : outputs) {
    for (std::int64_t t = 0; t < layers_[output.first].positions; ++t) places.push_back({output, t});
  }
  const auto l = outputs.front().first;
  const auto positions = layers_[l].positions;
  const auto place = [&](std::size_t what, std::int64_t unit, std::int64_t of_unit) {
    return ((units_before(batch) + unit) * positions + places[what].position) * of_unit;
  };
  differentiate(
      places.size(), batch,
      [&](std::size_t first, std::size_t count) { return start_at(std::span(places).subspan(first, count), batch); },
      {[&](std::size_t m, std::size_t what, std::int64_t unit) {
         return made_[places[what].output].second[m].data() +
                place(what, unit, layers_[m].positions * layers_[m].outputs);
       },
       [&](std::size_t m, std::size_t what, std::int64_t unit) {
         return made_[places[what].output].derivatives[m].data() + place(what, unit, layers_[m].elements);
       },
       keeps_directions(l) ? Directions([&](std::size_t what, std::int64_t unit) {
         return made_[places[what].output].directions.data() + place(what, unit, tail_->numbers_of_direction());
       })
                           : Directions()});
}

// For each copy of the batch an output of all its units at a position.
template <class Number>
auto Factors<Number>::start_at(std::span<const OutputAt> places, std::int64_t batch) const -> CotangentsOfLayers {
  const auto l = places.front().output.first;
  const auto& layer = layers_[l];
  const auto units = units_before(batch + 1) - units_before(batch);
  Tensor cotangent = at::zeros({step().copies, units, layer.positions, layer.outputs}, dtype_of_number<Number>);
  for (std::size_t k = 0; k < places.size(); ++k) {
    cotangent[static_cast<std::int64_t>(k)].select(2, places[k].output.second).select(1, places[k].position).fill_(1);
  }
  return {{l, {cotangent, {}}}};
}

template <class Number>
std::int64_t Factors<Number>::rows_at_once() const {
  const auto copies = step().copies;
  if (forward_.batches() == 1) return rows_at_once_in_a_batch(step());
  // As many as fit, all of them for one forward of each batch.
  std::int64_t numbers = 0;
  for (const auto& layer : layers_) {
    numbers += layer.positions * layer.outputs + (layer.upstream.empty() ? 0 : layer.elements);
  }
  const auto bytes = std::max<std::int64_t>(1, units_ * numbers * static_cast<std::int64_t>(sizeof(Number)));
  const auto fitting = bytes_of_rows / bytes;
  return std::clamp<std::int64_t>(fitting / copies, 1, 64 / copies) * copies;
}

template <class Number>
const std::vector<Sums<Number>>& Factors<Number>::of_rows(std::span<const std::vector<RowOfLayer>> rows) {
  of_rows_.resize(layers_.size());
  const auto places = static_cast<std::int64_t>(rows.size()) * units_;
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    of_rows_[m].second.resize(
        static_cast<std::size_t>(places * layers_[m].positions * layers_[m].outputs + padding<Number>));
    of_rows_[m].derivatives.resize(is_downstream(m) ? static_cast<std::size_t>(places * layers_[m].elements) : 0);
  }
  for (std::int64_t b = 0; b < forward_.batches(); ++b) {
    const auto place = [&](std::size_t what, std::int64_t unit, std::int64_t of_unit) {
      return (static_cast<std::int64_t>(what) * units_ + units_before(b) + unit) * of_unit;
    };
    differentiate(rows.size(), b,
                  [&](std::size_t first, std::size_t count) { return start_at_rows(rows.subspan(first, count), b); },
                  {[&](std::size_t m, std::size_t what, std::int64_t unit) {
                     return of_rows_[m].second.data() + place(what, unit, layers_[m].positions * layers_[m].outputs);
                   },
                   [&](std::size_t m, std::size_t what, std::int64_t unit) {
                     return of_rows_[m].derivatives.data() + place(what, unit, layers_[m].elements);
                   },
                   {}});
  }
  return of_rows_;
}

// The sum over units and positions of dL/dz times what the weight sees, in a copy of the batch.
template <class Number>
void Factors<Number>::add_row(const RowOfLayer& row, std::int64_t copy, std::int64_t batch,
                              CotangentsOfLayers& cotangents) const {
  const auto& layer = layers_[row.layer];
  const auto first = units_before(batch);
  const auto units = units_before(batch + 1) - first;
  const auto places = units * layer.positions;
  auto& [of_delta, of_input] = cotangents[row.layer];
  const auto numbers = [&](const std::vector<std::int64_t>& sizes) {
    return at::zeros(sizes, dtype_of_number<Number>);
  };
  if (!of_delta.defined()) of_delta = numbers({step().copies, units, layer.positions, layer.outputs});
  auto* to = of_delta.template data_ptr<Number>() + copy * places * layer.outputs + row.output;
  const auto* seen =
      row.column ? layer.inputs[row.group].data() + first * layer.positions * layer.columns + *row.column : nullptr;
  for (std::int64_t place = 0; place < places; ++place, to += layer.outputs) {
    *to = seen == nullptr ? Number{1} : seen[place * layer.columns];
  }
  if (!whole() || !row.column) return;
  if (!of_input.defined()) of_input = numbers({step().copies, units, layer.elements});
  auto* inputs = of_input.template data_ptr<Number>() + copy * units * layer.elements;
  const auto* delta = layer.delta.data() + first * layer.positions * layer.outputs + row.output;
  for (std::int64_t place = 0; place < places; ++place) {
    const auto at = place % layer.positions * layer.columns + *row.column;
    const auto element = layer.input_elements[row.group][static_cast<std::size_t>(at)];
    if (element >= 0) inputs[place / layer.positions * layer.elements + element] += delta[place * layer.outputs];
  }
}

// For each copy of the batch a row.
template <class Number>
auto Factors<Number>::start_at_rows(std::span<const std::vector<RowOfLayer>> rows, std::int64_t batch) const
    -> CotangentsOfLayers {
  CotangentsOfLayers cotangents;
  for (std::size_t k = 0; k < rows.size(); ++k) {
    for (const auto& row : rows[k]) add_row(row, static_cast<std::int64_t>(k), batch, cotangents);
  }
  return cotangents;
}

template <class Number>
bool Factors<Number>::depends_on_any(std::size_t m, const CotangentsOfLayers& cotangents) const {
  // A row of some of the layers may be asked for, and have places for all.
  return whole() ? !layers_[m].upstream.empty() : depends(m, cotangents.begin()->first);
}

// In passes that each serve as many as there are copies of the batch; those that go round the tail for some together.
template <class Number>
void Factors<Number>::differentiate(std::size_t count, std::int64_t batch, const Start& start, const Destinations& to) {
  const Stopwatch watch;
  const auto copies = static_cast<std::size_t>(step().copies);
  const auto together = copies * ((most_directions + copies - 1) / copies);
  for (std::size_t first = 0; first < count; first += together) {
    const auto end = std::min(count, first + together);
    std::vector<Tensor> directions;
    for (auto next = first; next < end; next += copies) {
      const auto some = std::min(copies, end - next);
      const auto cotangents = start(next, some);
      directions.push_back(cotangents.empty() ? Tensor() : differentiate_at_once(cotangents, next, some, batch, to));
    }
    if (step().tail) follow_tail(directions, first, end - first, to);
  }
  pass_seconds_ += watch.seconds();
}

// One double-backward pass; gives the direction of the tail's x.
template <class Number>
Tensor Factors<Number>::differentiate_at_once(const CotangentsOfLayers& cotangents, std::size_t first,
                                              std::size_t count, std::int64_t batch, const Destinations& to) {
  const auto& graph = forward_.graph_of_passes(batch);
  std::vector<std::size_t> outputs;
  std::vector<std::size_t> inputs;
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    outputs.push_back(step().layers[m].call);
    if (layers_[m].weight && depends_on_any(m, cotangents)) inputs.push_back(outputs.back());
  }
  std::vector<LayerGraph::Start> starts;
  for (const auto& [l, of] : cotangents) {
    const auto& call = graph.call(outputs[l]);
    const auto order = forward_.order(l, batch, step().copies);
    auto& start = starts.emplace_back(LayerGraph::Start{outputs[l], {}, {}});
    start.of_delta = output_from_units(of.of_delta.flatten(0, 1), call, order).to(call.output.options());
    if (!of.of_input.defined()) continue;
    start.of_input = input_from_units(of.of_input.flatten(0, 1), call, order).to(call.input.options());
  }
  const auto found = graph.second_derivatives(starts, outputs, inputs);
  const auto units = units_before(batch + 1) - units_before(batch);
  const auto clear = [&](std::size_t m, std::int64_t of_unit, const Destination& destination) {
    for (std::size_t k = 0; k < count; ++k) {
      for (std::int64_t u = 0; u < units; ++u) std::fill_n(destination(m, first + k, u), of_unit, Number{0});
    }
  };
  const auto store = [&](const Tensor& by_unit, std::size_t m, const Destination& destination) {
    const Tensor ordered = by_unit.to(at::kCPU, dtype_of_number<Number>).contiguous();
    const auto* from = ordered.template const_data_ptr<Number>();
    const auto of_unit = ordered.numel() / ordered.size(0);
    for (std::size_t k = 0; k < count; ++k) {
      for (std::int64_t u = 0; u < units; ++u, from += of_unit)
        std::copy_n(from, of_unit, destination(m, first + k, u));
    }
  };
  std::size_t next = 0;
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    const bool has_input = layers_[m].weight && depends_on_any(m, cotangents);
    const Tensor of_input = has_input ? found.of_input[next++] : Tensor();
    if (is_in_tail(m)) continue;
    const auto& column = graph.call(outputs[m]);
    const auto order = forward_.order(m, batch, step().copies);
    if (found.by_output[m].defined()) {
      store(output_by_unit(found.by_output[m], column, order), m, to.second);
    } else {
      clear(m, layers_[m].positions * layers_[m].outputs, to.second);
    }
    if (!has_input) continue;
    if (of_input.defined()) {
      store(input_by_unit(of_input, column, order), m, to.derivatives);
    } else {
      clear(m, layers_[m].elements, to.derivatives);
    }
  }
  return step().tail ? found.along_x.clone() : Tensor();
}

// The columns of layers in the tail, for passes in each of whose copies x has a direction; what was not asked for has
// none.
template <class Number>
void Factors<Number>::follow_tail(const std::vector<Tensor>& directions, std::size_t first, std::size_t count,
                                  const Destinations& to) {
  std::vector<Tensor> made;
  std::vector<std::size_t> what;
  for (std::size_t k = 0; k < count; ++k) {
    const auto copies = static_cast<std::size_t>(step().copies);
    const Tensor& direction = directions[k / copies];
    if (!direction.defined()) continue;
    what.push_back(first + k);
    made.push_back(direction[static_cast<std::int64_t>(k % copies)]);
  }
  if (made.empty()) return;
  if (to.directions) {
    for (std::size_t k = 0; k < made.size(); ++k) {
      const Tensor direction = made[k].to(at::kCPU, dtype_of_number<Number>).contiguous();
      const auto of_unit = direction.numel() / units_;
      const auto* from = direction.const_data_ptr<Number>();
      for (std::int64_t u = 0; u < units_; ++u, from += of_unit) std::copy_n(from, of_unit, to.directions(what[k], u));
    }
    return;
  }
  const Tensor all = at::stack(made, 2).to(at::kCPU, dtype_of_number<Number>);
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    if (!is_in_tail(m)) continue;
    tail_->follow(
        step().layers[m].call, all.const_data_ptr<Number>(), what.size(),
        [&](std::size_t k, std::int64_t unit) { return to.second(m, what[k], unit); },
        [&](std::size_t k, std::int64_t unit) {
          return is_downstream(m) ? to.derivatives(m, what[k], unit) : nullptr;
        });
  }
}

template <class Number>
bool Factors<Number>::keeps_directions(std::size_t l) const {
  const auto& layer = layers_[l];
  return tail_ && sums_before_tail(layer.positions, layer.by_input, layer.columns);
}

template <class Number>
void Factors<Number>::follow_sums(std::size_t m, const Number* directions, std::int64_t rows,
                                  Sums<Number>& sums) const {
  const auto& layer = layers_[m];
  const auto outputs = layer.positions * layer.outputs;
  sums.second.resize(static_cast<std::size_t>(rows * units_ * outputs + padding<Number>));
  sums.derivatives.resize(is_downstream(m) ? static_cast<std::size_t>(rows * units_ * layer.elements) : 0);
  const auto place = [&](std::size_t k, std::int64_t unit) { return static_cast<std::int64_t>(k) * units_ + unit; };
  tail_->follow(
      step().layers[m].call, directions, static_cast<std::size_t>(rows),
      [&](std::size_t k, std::int64_t unit) { return sums.second.data() + place(k, unit) * outputs; },
      [&](std::size_t k, std::int64_t unit) {
        return is_downstream(m) ? sums.derivatives.data() + place(k, unit) * layer.elements : nullptr;
      });
}

template class Factors<float>;
template class Factors<double>;

}  // namespace hessian_mpi::layers
