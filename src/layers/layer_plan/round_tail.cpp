#include "layer_plan/round_tail.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <utility>

#include "layer_plan/cotangents.hpp"
#include "layer_tail.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

// What a pass round the tail may take of one through it.
constexpr double worth = 0.95;

// Pairs of tensors that are to be the same, on a common scale.
class Pairs {
 public:
  explicit Pairs(double tolerance) : tolerance_(tolerance) {}
  // Undefined: zero.
  void add(const Tensor& expected, const Tensor& found) {
    if (expected.defined()) scale_ = std::max(scale_, largest(expected));
    const Tensor difference = !expected.defined() ? found : !found.defined() ? expected : found - expected;
    if (difference.defined()) difference_ = std::max(difference_, largest(difference));
  }
  bool are_alike() const { return difference_ <= tolerance_ * scale_; }

 private:
  static double largest(const Tensor& tensor) { return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>(); }

  double tolerance_;
  double scale_ = 0;
  double difference_ = 0;
};

Tensor rows_or_none(const Tensor& tensor, const LayerCall& call) {
  return tensor.defined() ? rows_of(tensor, call) : tensor;
}

bool finds_the_same(const network::Problem& problem, const LayerStep& step) {
  const auto& tail = *step.tail;
  const LayerGraph through(problem, 0, step.copies);
  const LayerGraph round(problem, 0, step.copies, &tail);
  std::vector<std::size_t> calls;
  std::vector<std::size_t> inputs;
  for (const auto& layer : step.layers) {
    calls.push_back(layer.call);
    if (through.call(layer.call).weight && !layer.upstream.empty()) inputs.push_back(layer.call);
  }
  const Tensor cotangent = patternless_like(through.call(calls.front()).output);
  const auto expected = through.second_derivatives({{calls.front(), cotangent, {}}}, calls, inputs);
  const auto found = round.second_derivatives({{calls.front(), cotangent, {}}}, calls, inputs);
  if (!found.along_x.defined()) return false;
  // [copies * places, numbers]
  const Tensor of_tail =
      found.along_x.transpose(0, 1).bmm(tail.by_layers).transpose(0, 1).reshape({-1, tail.by_layers.size(2)});
  const double tolerance = problem.precision() == Precision::float32 ? 1e-3 : 1e-9;
  Pairs second(tolerance);
  Pairs derivatives(tolerance);
  for (std::size_t k = 0; k < calls.size(); ++k) {
    const auto* const columns = tail.columns_of(calls[k]);
    second.add(rows_or_none(expected.by_output[k], through.call(calls[k])),
               columns != nullptr ? of_tail.narrow(1, columns->first_output, columns->outputs)
                                  : rows_or_none(found.by_output[k], round.call(calls[k])));
  }
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const auto* const columns = tail.columns_of(inputs[k]);
    derivatives.add(rows_or_none(expected.of_input[k], through.call(inputs[k])),
                    columns != nullptr ? of_tail.narrow(1, columns->first_element, columns->elements)
                                       : rows_or_none(found.of_input[k], round.call(inputs[k])));
  }
  return second.are_alike() && derivatives.are_alike();
}

}  // namespace

void look_for_tail(const std::vector<Unit>& units, const std::vector<bool>& samples_last,
                   const std::vector<std::size_t>& sound,
                   const std::function<OperatorCounts(const LayerGraph&, std::size_t)>& counts_of_pass,
                   Network& network) {
  std::vector<std::size_t> crossing;
  for (const auto c : sound) {
    if (units[c] == Unit::sample) crossing.push_back(c);
  }
  if (crossing.empty() || crossing.size() == sound.size()) return;
  const auto& forward = network.graph.forward();
  if (network.problem.batches() > 1 || forward.outputs.times) return;
  auto tail = longest_tail(forward, crossing, samples_last);
  if (!tail) return;
  const LayerGraph graph(network.problem, 0, 1, &*tail);
  network.passes_round_tail.resize(units.size());
  counts_of_pass(graph, crossing.front());  // makes what all passes have in common
  for (const auto c : sound) {
    if (tail->columns_of(c) != nullptr) continue;
    auto pass = counts_of_pass(graph, c);
    pass.products += static_cast<double>(tail->by_layers.numel());
    if (cost_of_pass(pass, 1) < worth * cost_of_pass(network.passes[c], 1)) network.passes_round_tail[c] = pass;
  }
  network.tail = std::make_shared<const Tail>(std::move(*tail));
}

bool finds_the_same_round_tail(const network::Problem& problem, const LayerStep& step) {
  try {
    return finds_the_same(problem, step);
  } catch (const std::exception&) {  // x is another tensor in copies
    return false;
  }
}

}  // namespace hessian_mpi::layers
