#include "layer_graph.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

namespace hessian_mpi {
namespace {

// By edges, not by tensors: an operation in place may have given a tensor another place in the graph since.
std::vector<torch::Tensor> backward(const torch::autograd::Edge& root, const torch::Tensor& cotangent,
                                    const torch::autograd::edge_list& outputs, bool create_graph) {
  return torch::autograd::Engine::get_default_engine().execute({root}, {cotangent}, /*keep_graph=*/true, create_graph,
                                                               /*accumulate_grad=*/false, outputs);
}

}  // namespace

LayerGraph::LayerGraph(const Problem& problem, std::int64_t batch) : forward_(capture_layers(problem, batch)) {
  torch::autograd::edge_list outputs;
  for (const auto& call : forward_.calls) outputs.push_back(call.output_edge);
  for (const auto& parameter : problem.parameters()) {
    outputs.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  std::vector<torch::Tensor> found(outputs.size());
  if (forward_.loss.requires_grad()) {
    found = backward(torch::autograd::impl::gradient_edge(forward_.loss), at::ones_like(forward_.loss), outputs,
                     /*create_graph=*/true);
  }
  const auto calls = static_cast<std::ptrdiff_t>(forward_.calls.size());
  delta_.assign(found.begin(), found.begin() + calls);
  for (auto g = found.begin() + calls; g != found.end(); ++g) {
    gradient_.push_back(g->defined() ? g->detach() : torch::Tensor());
  }
}

torch::Tensor LayerGraph::delta(std::size_t c) const {
  return delta_[c].defined() ? delta_[c].detach() : at::zeros_like(call(c).output);
}

std::vector<torch::Tensor> LayerGraph::derivatives(const torch::autograd::Edge& root, const torch::Tensor& cotangent,
                                                   const std::vector<std::size_t>& targets) const {
  torch::autograd::edge_list outputs;
  for (const auto m : targets) outputs.push_back(call(m).output_edge);
  if (outputs.empty()) return {};
  return backward(root, cotangent, outputs, /*create_graph=*/false);
}

std::vector<torch::Tensor> LayerGraph::second_derivatives(std::size_t c, const torch::Tensor& cotangent,
                                                          const std::vector<std::size_t>& targets) const {
  // A leaf is a parameter: it depends on no z, and its place in the graph is where its gradient would be added up.
  if (!delta_[c].defined() || !delta_[c].requires_grad() || delta_[c].is_leaf()) {
    return std::vector<torch::Tensor>(targets.size());
  }
  return derivatives(torch::autograd::impl::gradient_edge(delta_[c]), cotangent, targets);
}

std::vector<torch::Tensor> LayerGraph::input_derivatives(std::size_t c, const torch::Tensor& cotangent,
                                                         const std::vector<std::size_t>& targets) const {
  if (!call(c).input_edge.is_valid()) return std::vector<torch::Tensor>(targets.size());
  return derivatives(call(c).input_edge, cotangent, targets);
}

}  // namespace hessian_mpi
