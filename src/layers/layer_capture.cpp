#include "hessian_mpi/layers/layer_capture.hpp"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/operator_observer.hpp"
#include "layer_capture/operators.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::autograd::Node;

// --- Watching a forward ----------------------------------------------------------------------------------------------

// Notes the outermost calls of layers: what a layer calls in its turn is the same layer once more.
class LayerObserver final : public network::OperatorObserver {
 public:
  explicit LayerObserver(const std::vector<torch::Tensor>& parameters)
      : OperatorObserver(/*sees_ends=*/true), parameters_(parameters) {}

  std::vector<LayerCall> take() { return std::move(calls_); }

 private:
  struct Pending final : at::ObserverContext {
    explicit Pending(LayerCall started) : call(std::move(started)) {}
    LayerCall call;
  };

  std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) override {
    if (inside_ || !at::GradMode::is_enabled()) return nullptr;
    try {
      const auto arguments = network::arguments_of(function);
      auto call = call_of(function.name(), arguments, parameters_);
      if (!call) call = spread_embedding(function.name(), arguments, calls_);
      if (!call) return nullptr;
      inside_ = true;
      return std::make_unique<Pending>(std::move(*call));
    } catch (const c10::Error&) {  // called with what no layer is called with
      return nullptr;
    }
  }

  void on_end(const at::RecordFunction& function, at::ObserverContext& context) override {
    inside_ = false;
    const auto& outputs = function.outputs();
    const auto count = function.num_outputs();  // of which a norm's result is the first
    if (count == 0 || outputs.size() < count || !outputs[outputs.size() - count].isTensor()) return;
    const auto& output = outputs[outputs.size() - count].toTensor();
    if (!output.defined() || !output.requires_grad()) return;
    LayerCall call = std::move(static_cast<Pending&>(context).call);
    call.output = output.detach();
    call.output_edge = torch::autograd::impl::gradient_edge(output);
    calls_.push_back(std::move(call));
  }

  const std::vector<torch::Tensor>& parameters_;
  std::vector<LayerCall> calls_;
  bool inside_ = false;
};

// --- Where parameters enter ------------------------------------------------------------------------------------------

// For each function of the graph those that hand it a gradient, one for each edge.
using Givers = std::unordered_map<const Node*, std::vector<const Node*>>;

Givers givers_in(const torch::Tensor& root) {
  Givers givers;
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> open;
  if (root.grad_fn()) open.push_back(root.grad_fn().get());
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (!seen.insert(node).second) continue;
    for (const auto& edge : node->next_edges()) {
      if (!edge.is_valid()) continue;
      givers[edge.function.get()].push_back(node);
      open.push_back(edge.function.get());
    }
  }
  return givers;
}

bool has(const LayerCall& call, std::size_t parameter) {
  return call.weight == parameter || call.bias == parameter;
}

std::vector<std::size_t> calls_with(const std::vector<LayerCall>& calls, std::size_t parameter) {
  std::vector<std::size_t> found;
  for (std::size_t c = 0; c < calls.size(); ++c) {
    if (has(calls[c], parameter)) found.push_back(c);
  }
  return found;
}

// Those of some calls through the functions of whose outputs the gradient of a parameter comes; nothing where it comes
// by another way too.
std::optional<std::set<std::size_t>> entries_of(const torch::Tensor& parameter, const std::vector<LayerCall>& calls,
                                                const std::vector<std::size_t>& some, const Givers& givers) {
  std::set<std::size_t> entries;
  const Node* own = torch::autograd::impl::gradient_edge(parameter).function.get();
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> open{own};
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (!seen.insert(node).second) continue;
    const auto call = std::find_if(some.begin(), some.end(),
                                   [&](std::size_t c) { return calls[c].output_edge.function.get() == node; });
    if (call != some.end()) {
      entries.insert(*call);
      continue;
    }
    const auto found = givers.find(node);
    if (found == givers.end()) {
      if (node == own) break;  // the loss does not depend on it
      return std::nullopt;
    }
    open.insert(open.end(), found->second.begin(), found->second.end());
  }
  return entries;
}

void take_out(std::size_t parameter, LayerCall& call) {
  if (call.weight == parameter) call.weight = std::nullopt;
  if (call.bias == parameter) call.bias = std::nullopt;
}

// Leaves a parameter to the calls by which alone it enters the loss.
void keep_where_alone(std::size_t parameter, const torch::Tensor& value, const Givers& givers,
                      CapturedForward& forward) {
  constexpr std::size_t most_entries = 8;  // with more, rows by double-backward take less
  auto& calls = forward.calls;
  const auto holders = calls_with(calls, parameter);
  if (holders.empty()) return;
  const auto entries = entries_of(value, calls, holders, givers);
  auto& reason = forward.reasons[parameter];
  reason.clear();
  if (!entries || entries->size() > most_entries) reason = "it enters the loss in several places";
  if (entries && entries->empty()) reason = "the loss does not depend on it";
  if (entries && entries->size() > 1 &&
      std::any_of(entries->begin(), entries->end(), [&](std::size_t c) { return groups_of(calls[c]) > 1; })) {
    reason = "it enters the loss in several places";
  }
  for (const auto c : holders) {
    if (!reason.empty() || !entries->contains(c)) take_out(parameter, calls[c]);
  }
}

std::vector<std::vector<std::size_t>> tied_sets(const std::vector<LayerCall>& calls, std::size_t parameters) {
  std::vector<std::size_t> set(calls.size());  // the first call of it
  std::iota(set.begin(), set.end(), std::size_t{0});
  for (std::size_t p = 0; p < parameters; ++p) {
    const auto some = calls_with(calls, p);
    for (const auto c : some) {
      const auto [kept, joined] = std::minmax(set[some.front()], set[c]);
      std::replace(set.begin(), set.end(), std::size_t{joined}, std::size_t{kept});
    }
  }
  std::map<std::size_t, std::vector<std::size_t>> sets;
  for (std::size_t c = 0; c < calls.size(); ++c) sets[set[c]].push_back(c);
  std::vector<std::vector<std::size_t>> tied;
  for (auto& [first, some] : sets) {
    if (some.size() > 1) tied.push_back(std::move(some));
  }
  return tied;
}

}  // namespace

CapturedForward capture_layers(const network::Problem& problem, std::int64_t batch, std::int64_t copies) {
  CapturedForward result;
  result.reasons.assign(problem.parameters().size(),
                        "it is no weight or bias of a linear layer, a convolution, an embedding or a norm");
  {
    LayerObserver observer(problem.parameters());
    result.outputs = problem.matrix() == Matrix::hessian
                         ? engines::OutputMap{problem.loss(batch, copies), {}}
                         : engines::output_map(problem, problem.matrix(), batch, copies);
    if (!problem.by_inputs()) result.calls = observer.take();
  }
  const auto givers = givers_in(result.outputs.y);
  for (std::size_t c = 0; c < result.calls.size(); ++c) {
    auto& call = result.calls[c];
    if (!call.instead_of) continue;
    const auto entries = entries_of(problem.parameters()[*call.weight], result.calls, {c}, givers);
    (entries && !entries->empty() ? result.calls[*call.instead_of] : call).weight = std::nullopt;
  }
  for (std::size_t p = 0; p < problem.parameters().size(); ++p) {
    keep_where_alone(p, problem.parameters()[p], givers, result);
  }
  std::erase_if(result.calls, [](const LayerCall& call) { return !call.weight && !call.bias; });
  result.tied = tied_sets(result.calls, problem.parameters().size());
  return result;
}

std::optional<std::size_t> tied_set_of(const CapturedForward& forward, std::size_t call) {
  for (std::size_t set = 0; set < forward.tied.size(); ++set) {
    const auto& calls = forward.tied[set];
    if (std::find(calls.begin(), calls.end(), call) != calls.end()) return set;
  }
  return std::nullopt;
}

std::vector<std::size_t> first_calls(const CapturedForward& forward) {
  std::vector<std::size_t> first(forward.reasons.size(), forward.calls.size());
  for (auto c = forward.calls.size(); c-- > 0;) {
    for (const auto& parameter : {forward.calls[c].weight, forward.calls[c].bias}) {
      if (parameter) first[*parameter] = c;
    }
  }
  return first;
}

}  // namespace hessian_mpi::layers
