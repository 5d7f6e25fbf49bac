#include "hessian_mpi/layers/layer_capture.hpp"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "layer_capture/operators.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::autograd::Node;

// --- Watching a forward ----------------------------------------------------------------------------------------------

// Notes the outermost calls of this thread while it lives: what a layer calls in its turn is the same layer once more.
class LayerObserver {
 public:
  explicit LayerObserver(const std::vector<torch::Tensor>& parameters) : parameters_(parameters) {
    current() = this;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(on_start, on_end)
                                             .needsInputs(true)
                                             .needsOutputs(true)
                                             .scopes({at::RecordScope::FUNCTION}));
  }
  ~LayerObserver() {
    at::removeCallback(handle_);
    current() = nullptr;
  }
  LayerObserver(const LayerObserver&) = delete;
  LayerObserver& operator=(const LayerObserver&) = delete;

  std::vector<LayerCall> take() { return std::move(calls_); }

 private:
  struct Pending final : at::ObserverContext {
    explicit Pending(LayerCall started) : call(std::move(started)) {}
    LayerCall call;
  };

  // Callbacks are plain functions: this is how they find the observer of their thread.
  static LayerObserver*& current() {
    thread_local LayerObserver* observer = nullptr;
    return observer;
  }

  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
    LayerObserver* observer = current();
    if (observer == nullptr || observer->inside_ || !at::GradMode::is_enabled()) return nullptr;
    // The interpreter hands over its whole stack, of which the arguments are the end.
    const auto given = function.inputs();
    const auto count = std::min(given.size(), function.num_inputs());
    try {
      const auto arguments = given.slice(given.size() - count);
      auto call = call_of(function.name(), arguments, observer->parameters_);
      if (!call) call = spread_embedding(function.name(), arguments, observer->calls_);
      if (!call) return nullptr;
      observer->inside_ = true;
      return std::make_unique<Pending>(std::move(*call));
    } catch (const c10::Error&) {  // called with what no layer is called with
      return nullptr;
    }
  }

  static void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
    LayerObserver* observer = current();
    if (observer == nullptr || context == nullptr) return;
    observer->inside_ = false;
    const auto& outputs = function.outputs();
    const auto count = function.num_outputs();  // of which a norm's result is the first
    if (count == 0 || outputs.size() < count || !outputs[outputs.size() - count].isTensor()) return;
    const auto& output = outputs[outputs.size() - count].toTensor();
    if (!output.defined() || !output.requires_grad()) return;
    LayerCall call = std::move(static_cast<Pending*>(context)->call);
    call.output = output.detach();
    call.output_edge = torch::autograd::impl::gradient_edge(output);
    observer->calls_.push_back(std::move(call));
  }

  const std::vector<torch::Tensor>& parameters_;
  std::vector<LayerCall> calls_;
  bool inside_ = false;
  at::CallbackHandle handle_ = 0;
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

enum class Entry { alone, several, nowhere };

// Whether the gradient of a parameter comes through the function of a call's output, and through it alone.
Entry entry_of(const torch::Tensor& parameter, const LayerCall& call, const Givers& givers) {
  const Node* node = torch::autograd::impl::gradient_edge(parameter).function.get();
  const Node* output = call.output_edge.function.get();
  while (node != output) {
    const auto found = givers.find(node);
    if (found == givers.end()) return Entry::nowhere;
    if (found->second.size() > 1) return Entry::several;
    node = found->second.front();
  }
  return Entry::alone;
}

// Takes the parameter out of the call where it also enters elsewhere.
void keep_if_alone(std::optional<std::size_t>& parameter, const LayerCall& call, const network::Problem& problem,
                   const Givers& givers, std::vector<std::string>& reasons) {
  if (!parameter) return;
  const auto entry = entry_of(problem.parameters()[*parameter], call, givers);
  if (entry == Entry::alone) {
    reasons[*parameter].clear();
  } else {
    reasons[*parameter] =
        entry == Entry::several ? "it enters the loss in several places" : "the loss does not depend on it";
    parameter = std::nullopt;
  }
}

// Of no use: without parameters, or elementwise in a tensor that samples have no part in, such as another weight.
bool is_beside_samples(const LayerCall& call, std::int64_t samples, std::vector<std::string>& reasons) {
  if (!call.weight && !call.bias) return true;
  if (!call.elementwise || call.output.numel() / call.weight_sizes[0] % samples == 0) return false;
  for (const auto& parameter : {call.weight, call.bias}) {
    if (parameter) reasons[*parameter] = "it enters a tensor without samples";
  }
  return true;
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
    result.calls = observer.take();
  }
  const auto givers = givers_in(result.outputs.y);
  for (auto& call : result.calls) {
    if (!call.instead_of) continue;
    const bool alone = entry_of(problem.parameters()[*call.weight], call, givers) == Entry::alone;
    (alone ? result.calls[*call.instead_of] : call).weight = std::nullopt;
  }
  for (auto& call : result.calls) {
    keep_if_alone(call.weight, call, problem, givers, result.reasons);
    keep_if_alone(call.bias, call, problem, givers, result.reasons);
  }
  const auto samples = problem.samples_in(batch).count() * copies;
  std::erase_if(result.calls, [&](const LayerCall& call) { return is_beside_samples(call, samples, result.reasons); });
  return result;
}

}  // namespace hessian_mpi::layers
