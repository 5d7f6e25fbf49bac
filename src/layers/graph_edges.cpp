#include "graph_edges.hpp"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <map>
#include <unordered_set>
#include <utility>

namespace hessian_mpi::layers {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;

// Zeros that LibTorch keeps without their memory, of a sign's derivative, say, are no dependence.
torch::Tensor undefined_where_zero(torch::Tensor tensor) {
  return tensor.defined() && tensor._is_zerotensor() ? torch::Tensor() : std::move(tensor);
}

// The functions that a backward pass from one goes through, but not by way of an edge, each after those that it hands
// gradients to.
std::vector<Node*> functions_from(Node* root, const Edge& except = {}) {
  struct Visit {
    Node* node;
    std::size_t next;
  };
  std::vector<Node*> order;
  std::unordered_set<const Node*> seen{root};
  std::vector<Visit> open{{root, 0}};
  while (!open.empty()) {
    auto& visit = open.back();
    if (visit.next == visit.node->next_edges().size()) {
      order.push_back(visit.node);
      open.pop_back();
      continue;
    }
    const auto& edge = visit.node->next_edges()[visit.next++];
    if (!edge.is_valid() || edge == except) continue;
    if (seen.insert(edge.function.get()).second) open.push_back({edge.function.get(), 0});
  }
  return order;
}

}  // namespace

std::vector<torch::Tensor> backward(const torch::autograd::edge_list& roots,
                                    const std::vector<torch::Tensor>& cotangents,
                                    const torch::autograd::edge_list& outputs, bool create_graph) {
  auto found = torch::autograd::Engine::get_default_engine().execute(roots, cotangents, /*keep_graph=*/true,
                                                                     create_graph, /*accumulate_grad=*/false, outputs);
  for (auto& tensor : found) tensor = undefined_where_zero(std::move(tensor));
  return found;
}

std::vector<Edge> narrow_places(const CapturedForward& forward, const std::vector<std::size_t>& calls) {
  std::vector<Edge> places;
  if (!forward.outputs.y.grad_fn()) return places;
  std::unordered_set<const Node*> ends;
  for (const auto c : calls) ends.insert(forward.calls[c].output_edge.function.get());
  auto order = functions_from(forward.outputs.y.grad_fn().get());
  std::unordered_set<const Node*> leading = ends;  // to one of them
  for (Node* const node : order) {
    const auto& edges = node->next_edges();
    if (std::any_of(edges.begin(), edges.end(),
                    [&](const Edge& edge) { return leading.contains(edge.function.get()); })) {
      leading.insert(node);
    }
  }
  // What the functions so far hand on, and to whom: with a single place all ways go through it.
  std::map<std::pair<Node*, std::uint32_t>, Edge> open;
  std::reverse(order.begin(), order.end());
  for (Node* const node : order) {
    if (!leading.contains(node)) continue;
    if (ends.contains(node)) break;
    std::erase_if(open, [&](const auto& place) { return place.first.first == node; });
    for (const auto& edge : node->next_edges()) {
      if (leading.contains(edge.function.get())) open.emplace(std::pair(edge.function.get(), edge.input_nr), edge);
    }
    if (open.size() == 1) places.push_back(open.begin()->second);
  }
  std::reverse(places.begin(), places.end());
  return places;
}

std::optional<std::vector<bool>> calls_before(const CapturedForward& forward, const Edge& place) {
  const auto through = functions_from(place.function.get());
  const auto past = functions_from(forward.outputs.y.grad_fn().get(), place);
  const auto has = [](const std::vector<Node*>& functions, const LayerCall& call) {
    return std::find(functions.begin(), functions.end(), call.output_edge.function.get()) != functions.end();
  };
  std::vector<bool> before;
  for (const auto& call : forward.calls) {
    before.push_back(has(through, call));
    if (before.back() && has(past, call)) return std::nullopt;
  }
  return before;
}

}  // namespace hessian_mpi::layers
