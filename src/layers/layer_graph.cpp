#include "layer_graph.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

#include "graph_edges.hpp"
#include "layer_capture/normalization.hpp"

namespace hessian_mpi::layers {

LayerGraph::LayerGraph(const network::Problem& problem, std::int64_t batch, std::int64_t copies, const Tail* tail)
    : forward_(capture_layers(problem, batch, copies)) {
  const auto& y = forward_.outputs.y;
  // Of J^T A J any one will do that is the same in all copies, and seldom one that derivatives are blind to.
  cotangent_ = forward_.outputs.times ? (y.detach() + 1).requires_grad_() : at::ones_like(y);
  if (tail != nullptr) {
    const auto x = narrow_places(forward_, tail->place.calls).at(tail->place.number);
    direction_ = at::zeros({copies, tail->places(), tail->features()}, tail->delta.options());
    run_back(problem, {x}, {delta_of_tail(*tail, x, copies, direction_)});
  } else if (y.requires_grad()) {
    run_back(problem, {torch::autograd::impl::gradient_edge(y)}, {cotangent_});
  } else {
    run_back(problem, {}, {});
  }
}

void LayerGraph::run_back(const network::Problem& problem, const torch::autograd::edge_list& roots,
                          const std::vector<torch::Tensor>& cotangents) {
  torch::autograd::edge_list outputs;
  for (const auto& call : forward_.calls) outputs.push_back(call.output_edge);
  for (const auto& parameter : problem.parameters()) {
    outputs.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  std::vector<std::size_t> with_input;
  for (std::size_t c = 0; c < forward_.calls.size(); ++c) {
    if (!call(c).input_edge.is_valid()) continue;
    with_input.push_back(c);
    outputs.push_back(call(c).input_edge);
  }
  const auto found = roots.empty() ? std::vector<torch::Tensor>(outputs.size())
                                   : backward(roots, cotangents, outputs, /*create_graph=*/true);
  const auto calls = static_cast<std::ptrdiff_t>(forward_.calls.size());
  delta_.assign(found.begin(), found.begin() + calls);
  const auto inputs = found.end() - static_cast<std::ptrdiff_t>(with_input.size());
  for (auto g = found.begin() + calls; g != inputs; ++g) {
    gradient_.push_back(g->defined() ? g->detach() : torch::Tensor());
  }
  input_gradient_.resize(forward_.calls.size());
  for (std::size_t k = 0; k < with_input.size(); ++k) {
    input_gradient_[with_input[k]] = inputs[static_cast<std::ptrdiff_t>(k)];
  }
}

torch::Tensor LayerGraph::delta(std::size_t c) const {
  return delta_[c].defined() ? delta_[c].detach() : at::zeros_like(call(c).output);
}

bool LayerGraph::has_input_gradient(std::size_t c) const {
  const auto& gradient = input_gradient_[c];
  return gradient.defined() && gradient.requires_grad() && !gradient.is_leaf();
}

// A leaf is a parameter: it depends on no z, and its place in the graph is where its gradient would be added up.
bool LayerGraph::delta_depends(std::size_t c) const {
  return delta_[c].defined() && delta_[c].requires_grad() && !delta_[c].is_leaf();
}

bool LayerGraph::input_depends(std::size_t c) const {
  return !forward_.outputs.times && call(c).input_edge.is_valid();
}

// A J_z v for cotangents v of deltas: J_z^T u is linear in the cotangent u of y, so that its derivative by u is J_z.
torch::Tensor LayerGraph::times_a(const torch::autograd::edge_list& deltas,
                                  const std::vector<torch::Tensor>& cotangents) const {
  const auto found =
      backward(deltas, cotangents, {torch::autograd::impl::gradient_edge(cotangent_)}, /*create_graph=*/false).front();
  return found.defined() ? forward_.outputs.times(found) : at::zeros_like(cotangent_);
}

std::vector<torch::Tensor> LayerGraph::derivatives(const Roots& roots, const std::vector<std::size_t>& targets) const {
  if (roots.edges.empty() || targets.empty()) return std::vector<torch::Tensor>(targets.size());
  torch::autograd::edge_list outputs;
  for (const auto m : targets) outputs.push_back(call(m).output_edge);
  if (forward_.outputs.times) {
    return backward({torch::autograd::impl::gradient_edge(forward_.outputs.y)},
                    {times_a(roots.edges, roots.cotangents)}, outputs, /*create_graph=*/false);
  }
  return backward(roots.edges, roots.cotangents, outputs, /*create_graph=*/false);
}

// Where the cotangents of starts come in, as far as anything depends on them.
LayerGraph::Roots LayerGraph::roots_of(const std::vector<Start>& starts) const {
  Roots roots;
  for (const auto& start : starts) {
    if (start.of_delta.defined() && delta_depends(start.call)) {
      roots.edges.push_back(torch::autograd::impl::gradient_edge(delta_[start.call]));
      roots.cotangents.push_back(start.of_delta);
    }
    if (start.of_input.defined() && input_depends(start.call)) {
      roots.edges.push_back(call(start.call).input_edge);
      roots.cotangents.push_back(through_normalization(call(start.call), start.of_input));
    }
  }
  return roots;
}

LayerGraph::SecondDerivatives LayerGraph::second_derivatives(const std::vector<Start>& starts,
                                                             const std::vector<std::size_t>& outputs,
                                                             const std::vector<std::size_t>& inputs) const {
  SecondDerivatives found{std::vector<torch::Tensor>(outputs.size()), std::vector<torch::Tensor>(inputs.size())};
  if (direction_.defined()) found.along_x = direction_.zero_();
  const auto roots = roots_of(starts);
  if (roots.edges.empty()) return found;
  if (forward_.outputs.times) {  // the network is taken as linear
    found.by_output = derivatives(roots, outputs);
    return found;
  }
  torch::autograd::edge_list targets;
  for (const auto m : outputs) targets.push_back(call(m).output_edge);
  for (const auto m : inputs) {
    if (has_input_gradient(m)) targets.push_back(torch::autograd::impl::gradient_edge(input_gradient_[m]));
  }
  if (targets.empty()) return found;
  const auto all = backward(roots.edges, roots.cotangents, targets, /*create_graph=*/false);
  std::copy_n(all.begin(), outputs.size(), found.by_output.begin());
  auto next = all.begin() + static_cast<std::ptrdiff_t>(outputs.size());
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    if (!has_input_gradient(inputs[k])) continue;
    found.of_input[k] = *next++;
    if (found.of_input[k].defined()) found.of_input[k] = through_normalization(call(inputs[k]), found.of_input[k]);
  }
  return found;
}

std::vector<torch::Tensor> LayerGraph::input_derivatives(std::size_t c, const torch::Tensor& cotangent,
                                                         const std::vector<std::size_t>& targets) const {
  return derivatives(roots_of({{c, {}, cotangent}}), targets);
}

std::vector<torch::Tensor> LayerGraph::derivatives_of(const std::vector<std::size_t>& calls,
                                                      const std::vector<torch::Tensor>& of_delta,
                                                      const std::vector<torch::Tensor>& of_input,
                                                      const std::vector<std::size_t>& targets) const {
  std::vector<Start> starts;
  for (std::size_t k = 0; k < calls.size(); ++k) starts.push_back({calls[k], of_delta[k], of_input[k]});
  return derivatives(roots_of(starts), targets);
}

}  // namespace hessian_mpi::layers
