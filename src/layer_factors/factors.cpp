#include "factors.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <type_traits>

#include "hessian_mpi/partition.hpp"

namespace hessian_mpi {
namespace {

using torch::Tensor;

template <class Number>
constexpr auto dtype = std::is_same_v<Number, float> ? torch::kFloat32 : torch::kFloat64;

template <class Number>
void append(const Tensor& tensor, std::vector<Number>& numbers) {
  const Tensor dense = tensor.to(dtype<Number>).contiguous();
  const auto* begin = dense.const_data_ptr<Number>();
  numbers.insert(numbers.end(), begin, begin + dense.numel());
}

}  // namespace

template <class Number>
Factors<Number>::Factors(const Problem& problem, const LayerPlan& plan, std::uint64_t memory,
                         const Communicator& communicator)
    : problem_(problem), plan_(plan), memory_(memory) {
  communicator.together([&] { read_layers(); });
  make_derivatives(communicator);
}

template <class Number>
LayerOrder Factors<Number>::order(std::size_t l, std::int64_t batch) const {
  const auto samples = std::min(problem_.batch_size(), problem_.samples() - batch * problem_.batch_size());
  return {plan_.unit, samples, plan_.layers[l].samples_last};
}

template <class Number>
const LayerGraph& Factors<Number>::graph(std::int64_t batch) {
  if (!graph_ || graph_->first != batch) {
    graph_.reset();  // the old graph's memory before the new one's
    graph_.emplace(batch, LayerGraph(problem_, batch));
  }
  return graph_->second;
}

template <class Number>
void Factors<Number>::read_layers() {
  layers_.resize(plan_.layers.size());
  unit_begins_ = {0};
  for (std::int64_t b = 0; b < problem_.batches(); ++b) append_batch(graph(b), b);
  units_ = unit_begins_.back();
}

template <class Number>
void Factors<Number>::append_batch(const LayerGraph& graph, std::int64_t batch) {
  std::int64_t units = 0;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto& call = graph.call(plan_.layers[l].call);
    const auto own = order(l, batch);
    auto& layer = layers_[l];
    units = units_of(call, own);
    if (batch == 0) {
      layer = {call.weight,
               call.bias,
               positions_of(call, own),
               outputs_of(call),
               groups_of(call),
               weight_columns(call),
               call.input.numel() / units,
               {},
               {},
               {},
               plan_.layers[l].upstream,
               {}};
      layer.inputs.resize(static_cast<std::size_t>(layer.groups));
      layer.input_elements.resize(layer.inputs.size());
    }
    for (std::int64_t g = 0; call.weight && g < layer.groups; ++g) {
      append(input_patches(call, g, own), layer.inputs[static_cast<std::size_t>(g)]);
      if (batch > 0) continue;
      const Tensor elements = patch_elements(call, g, own).contiguous();
      const auto* begin = elements.template const_data_ptr<std::int64_t>();
      layer.input_elements[static_cast<std::size_t>(g)].assign(begin, begin + elements.numel());
    }
    append(output_by_unit(graph.delta(plan_.layers[l].call), call, own), layer.delta);
  }
  unit_begins_.push_back(unit_begins_.back() + units);
}

template <class Number>
void Factors<Number>::make_derivatives(const Communicator& communicator) {
  communicator.together([&] {
    for (auto& layer : layers_) {
      for (const auto m : layer.upstream) {
        const auto& above = layers_[m];
        layer.derivatives.emplace_back(
            static_cast<std::size_t>(layer.elements * units_ * above.positions * above.outputs));
      }
    }
    for (std::int64_t b = 0; b < problem_.batches(); ++b) {
      for (std::size_t l = 0; l < layers_.size(); ++l) {
        if (layers_[l].upstream.empty()) continue;
        const auto own = share(layers_[l].elements, communicator.rank(), communicator.size());
        for (auto e = own.begin; e < own.end; ++e) make_derivatives(l, e, b);
      }
    }
  });
  for (auto& layer : layers_) {
    for (auto& derivatives : layer.derivatives) {
      const auto bytes = static_cast<std::int64_t>(derivatives.size() * sizeof(Number)) / layer.elements;
      std::vector<std::int64_t> begins;
      for (int r = 0; r <= communicator.size(); ++r) {
        begins.push_back(share(layer.elements, r, communicator.size()).begin * bytes);
      }
      communicator.complete(reinterpret_cast<char*>(derivatives.data()), begins);
    }
  }
}

// One backward pass: a number of the input of all units of a batch, by the outputs of all layers upstream.
template <class Number>
void Factors<Number>::make_derivatives(std::size_t l, std::int64_t element, std::int64_t batch) {
  auto& layer = layers_[l];
  const auto& batch_graph = graph(batch);
  const auto c = plan_.layers[l].call;
  const auto& call = batch_graph.call(c);
  std::vector<std::size_t> targets;
  for (const auto m : layer.upstream) targets.push_back(plan_.layers[m].call);
  const auto own = order(l, batch);
  Tensor cotangent = at::zeros({units_of(call, own), layer.elements}, call.input.options());
  cotangent.select(1, element).fill_(1);
  const auto found = batch_graph.input_derivatives(c, input_from_units(cotangent, call, own), targets);
  for (std::size_t k = 0; k < found.size(); ++k) {
    if (!found[k].defined()) continue;
    const auto m = layer.upstream[k];
    const auto& above = batch_graph.call(plan_.layers[m].call);
    const Tensor ordered = output_by_unit(found[k], above, order(m, batch)).to(dtype<Number>).contiguous();
    const auto of_unit = layers_[m].positions * layers_[m].outputs;
    std::copy_n(ordered.template const_data_ptr<Number>(), ordered.numel(),
                layer.derivatives[k].data() + (element * units_ + units_before(batch)) * of_unit);
  }
}

template <class Number>
std::size_t Factors<Number>::size_of_second(std::size_t l) const {
  std::int64_t numbers = 0;
  for (const auto& m : layers_) numbers += m.positions * m.outputs;
  return static_cast<std::size_t>(units_ * layers_[l].positions * numbers);
}

// With several batches, what else is expected next and fits: all of it for one forward of each batch.
template <class Number>
std::vector<OutputOfLayer> Factors<Number>::made_with(const OutputOfLayer& output) const {
  std::vector<OutputOfLayer> outputs{output};
  if (problem_.batches() == 1) return outputs;
  auto bytes = size_of_second(output.first) * sizeof(Number);
  for (auto next = std::find(expected_.begin(), expected_.end(), output); next != expected_.end(); ++next) {
    if (std::find(outputs.begin(), outputs.end(), *next) != outputs.end()) continue;
    bytes += size_of_second(next->first) * sizeof(Number);
    if (bytes > memory_) break;
    outputs.push_back(*next);
  }
  return outputs;
}

template <class Number>
const std::vector<std::vector<Number>>& Factors<Number>::second_derivatives(const OutputOfLayer& output) {
  if (const auto found = made_.find(output); found != made_.end()) return found->second;
  const auto outputs = made_with(output);
  std::size_t bytes = 0;
  for (const auto& [l, p] : outputs) bytes += size_of_second(l) * sizeof(Number);
  for (const auto& [made, second] : made_) bytes += size_of_second(made.first) * sizeof(Number);
  if (bytes > memory_) made_.clear();
  for (const auto& [l, p] : outputs) {
    Second second;
    for (const auto& m : layers_) {
      second.emplace_back(static_cast<std::size_t>(units_ * layers_[l].positions * m.positions * m.outputs));
    }
    made_[{l, p}] = std::move(second);
  }
  for (std::int64_t b = 0; b < problem_.batches(); ++b) {
    for (const auto& made : outputs) add_pass(made, b, made_[made]);
  }
  return made_[output];
}

// One double-backward pass for each position: an output of all units of a batch, by the outputs of all layers.
template <class Number>
void Factors<Number>::add_pass(const OutputOfLayer& output, std::int64_t batch, Second& second) {
  const auto [l, p] = output;
  const auto& batch_graph = graph(batch);
  const auto c = plan_.layers[l].call;
  const auto& call = batch_graph.call(c);
  const auto own = order(l, batch);
  std::vector<std::size_t> targets;
  for (const auto& layer : plan_.layers) targets.push_back(layer.call);
  const auto positions = layers_[l].positions;
  for (std::int64_t t = 0; t < positions; ++t) {
    Tensor cotangent = at::zeros({units_of(call, own), positions, layers_[l].outputs}, call.output.options());
    cotangent.select(2, p).select(1, t).fill_(1);
    const auto found = batch_graph.second_derivatives(c, output_from_units(cotangent, call, own), targets);
    for (std::size_t m = 0; m < found.size(); ++m) {
      if (!found[m].defined()) continue;
      const Tensor ordered =
          output_by_unit(found[m], batch_graph.call(targets[m]), order(m, batch)).to(dtype<Number>).contiguous();
      const auto* from = ordered.template const_data_ptr<Number>();
      const auto of_unit = layers_[m].positions * layers_[m].outputs;
      for (std::int64_t u = 0; u < ordered.size(0); ++u) {
        std::copy_n(from + u * of_unit, of_unit,
                    second[m].data() + ((units_before(batch) + u) * positions + t) * of_unit);
      }
    }
  }
}

template class Factors<float>;
template class Factors<double>;

}  // namespace hessian_mpi
