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

namespace hessian_mpi::layers {
namespace {

using torch::autograd::Node;
using Arguments = c10::ArrayRef<c10::IValue>;

// --- The arguments of an operator ------------------------------------------------------------------------------------

template <class Predicate>
std::optional<std::size_t> parameter_where(const std::vector<torch::Tensor>& parameters, const Predicate& predicate) {
  const auto found = std::find_if(parameters.begin(), parameters.end(), predicate);
  if (found == parameters.end()) return std::nullopt;
  return static_cast<std::size_t>(found - parameters.begin());
}

std::optional<std::size_t> parameter_of(const c10::IValue& value, const std::vector<torch::Tensor>& parameters) {
  if (!value.isTensor()) return std::nullopt;
  return parameter_where(parameters, [&](const torch::Tensor& p) { return p.is_same(value.toTensor()); });
}

// The parameter [outputs, inputs] whose transpose a factor of a product is.
std::optional<std::size_t> transposed_parameter_of(const torch::Tensor& tensor,
                                                   const std::vector<torch::Tensor>& parameters) {
  return parameter_where(parameters, [&](const torch::Tensor& p) {
    return p.dim() == 2 && tensor.data_ptr() == p.data_ptr() && tensor.size(0) == p.size(1) &&
           tensor.size(1) == p.size(0) && tensor.stride(0) == p.stride(1) && tensor.stride(1) == p.stride(0) &&
           !tensor.is_same(p);
  });
}

/// The weight in a product input x factor.
struct WeightOfProduct {
  std::optional<std::size_t> parameter;
  bool by_input = false;
};

WeightOfProduct weight_of_product(const torch::Tensor& factor, const std::vector<torch::Tensor>& parameters) {
  if (factor.dim() != 2) return {};
  if (const auto as_it_is = parameter_of(factor, parameters)) return {as_it_is, true};
  return {transposed_parameter_of(factor, parameters), false};
}

bool is_one(const c10::IValue& value) {
  return value.isScalar() && value.toScalar().toDouble() == 1;
}

torch::autograd::Edge edge_into(const torch::Tensor& input) {
  // A leaf's place in the graph is where its gradient would be added up.
  if (!input.requires_grad() || input.is_leaf()) return {};
  return torch::autograd::impl::gradient_edge(input);
}

LayerCall call_with_input(const torch::Tensor& input, std::vector<std::int64_t> weight_sizes) {
  LayerCall call;
  call.input = input.detach();
  call.input_edge = edge_into(input);
  call.weight_sizes = std::move(weight_sizes);
  return call;
}

// (input, weight, bias)
std::optional<LayerCall> linear(Arguments arguments, const std::vector<torch::Tensor>& parameters) {
  if (arguments.size() < 3) return std::nullopt;
  const auto weight = parameter_of(arguments[1], parameters);
  const auto bias = parameter_of(arguments[2], parameters);
  const auto& tensor = arguments[1].toTensor();
  if ((!weight && !bias) || tensor.dim() != 2) return std::nullopt;
  LayerCall call = call_with_input(arguments[0].toTensor(), tensor.sizes().vec());
  call.weight = weight;
  call.bias = bias;
  return call;
}

// (bias, input, factor, beta, alpha)
std::optional<LayerCall> addmm(Arguments arguments, const std::vector<torch::Tensor>& parameters) {
  if (arguments.size() < 5 || !is_one(arguments[3]) || !is_one(arguments[4])) return std::nullopt;
  const auto& factor = arguments[2].toTensor();
  const auto weight = weight_of_product(factor, parameters);
  auto bias = parameter_of(arguments[0], parameters);
  if (bias && (parameters[*bias].dim() != 1 || parameters[*bias].size(0) != factor.size(1))) bias = std::nullopt;
  if (!weight.parameter && !bias) return std::nullopt;
  LayerCall call = call_with_input(arguments[1].toTensor(), {factor.size(1), factor.size(0)});
  call.weight = weight.parameter;
  call.by_input = weight.by_input;
  call.bias = bias;
  return call;
}

// (input, factor)
std::optional<LayerCall> product(Arguments arguments, const std::vector<torch::Tensor>& parameters) {
  if (arguments.size() < 2 || arguments[0].toTensor().dim() < 2) return std::nullopt;
  const auto& factor = arguments[1].toTensor();
  const auto weight = weight_of_product(factor, parameters);
  if (!weight.parameter) return std::nullopt;
  LayerCall call = call_with_input(arguments[0].toTensor(), {factor.size(1), factor.size(0)});
  call.weight = weight.parameter;
  call.by_input = weight.by_input;
  return call;
}

// What an embedding multiplies its weight with: a one at each index, but at that of padding, which has no gradient.
torch::Tensor one_at_each(const torch::Tensor& indices, std::int64_t padding, const torch::Tensor& weight) {
  auto sizes = indices.sizes().vec();
  sizes.push_back(weight.size(0));
  torch::Tensor ones = at::zeros(sizes, weight.options().requires_grad(false));
  const torch::Tensor places = indices.detach().to(at::kLong).unsqueeze(-1);
  ones.scatter_(-1, places, (places != padding).to(ones.scalar_type()));
  return ones;
}

// (weight, indices, padding index, scaled by frequency, sparse)
std::optional<LayerCall> embedding(Arguments arguments, const std::vector<torch::Tensor>& parameters) {
  constexpr std::int64_t largest = 1 << 26;  // numbers
  if (arguments.size() < 5 || arguments[3].toBool() || arguments[4].toBool()) return std::nullopt;
  const auto weight = parameter_of(arguments[0], parameters);
  if (!weight) return std::nullopt;
  const auto& table = arguments[0].toTensor();
  const auto& indices = arguments[1].toTensor();
  if (table.dim() != 2 || indices.numel() * table.size(0) > largest) return std::nullopt;
  LayerCall call = call_with_input(one_at_each(indices, arguments[2].toInt(), table), {table.size(1), table.size(0)});
  call.weight = weight;
  call.by_input = call.embedding = true;
  return call;
}

// One number stands for all dimensions.
std::vector<std::int64_t> for_dimensions(const c10::IValue& value, std::size_t dimensions) {
  auto numbers = value.toIntVector();
  if (numbers.size() == 1) numbers.resize(dimensions, numbers.front());
  return numbers;
}

// Sets the padding from numbers, or from the words that Python's layers take.
bool set_padding(const c10::IValue& padding, const std::vector<std::int64_t>& kernel, Convolution& convolution) {
  const auto dimensions = kernel.size();
  if (!padding.isString()) {
    convolution.padding_before = convolution.padding_after = for_dimensions(padding, dimensions);
    return true;
  }
  convolution.padding_before.assign(dimensions, 0);
  convolution.padding_after.assign(dimensions, 0);
  if (padding.toStringView() == "valid") return true;
  if (padding.toStringView() != "same") return false;
  for (std::size_t d = 0; d < dimensions; ++d) {
    const auto total = convolution.dilation[d] * (kernel[d] - 1);
    convolution.padding_before[d] = total / 2;
    convolution.padding_after[d] = total - total / 2;
  }
  return true;
}

// (input, weight, bias, stride, padding, dilation, groups), or with (..., transposed, output_padding, groups).
std::optional<LayerCall> convolution(Arguments arguments, const std::vector<torch::Tensor>& parameters) {
  if (arguments.size() < 7) return std::nullopt;
  const bool general = arguments.size() >= 9;
  if (general && arguments[6].toBool()) return std::nullopt;
  const auto weight = parameter_of(arguments[1], parameters);
  const auto bias = parameter_of(arguments[2], parameters);
  if (!weight && !bias) return std::nullopt;
  const auto& input = arguments[0].toTensor();
  const auto sizes = arguments[1].toTensor().sizes().vec();
  if (input.dim() != static_cast<std::int64_t>(sizes.size()))
    return std::nullopt;  // a single sample, without its dimension
  const std::vector<std::int64_t> kernel(sizes.begin() + 2, sizes.end());
  Convolution geometry;
  geometry.stride = for_dimensions(arguments[3], kernel.size());
  geometry.dilation = for_dimensions(arguments[5], kernel.size());
  geometry.groups = arguments[general ? 8 : 6].toInt();
  if (!set_padding(arguments[4], kernel, geometry)) return std::nullopt;
  LayerCall call = call_with_input(input, sizes);
  call.weight = weight;
  call.bias = bias;
  call.convolution = std::move(geometry);
  return call;
}

std::optional<LayerCall> call_of(std::string_view name, Arguments arguments,
                                 const std::vector<torch::Tensor>& parameters) {
  if (name == "aten::linear") return linear(arguments, parameters);
  if (name == "aten::addmm") return addmm(arguments, parameters);
  if (name == "aten::mm" || name == "aten::matmul") return product(arguments, parameters);
  if (name == "aten::embedding") return embedding(arguments, parameters);
  if (name == "aten::conv1d" || name == "aten::conv2d" || name == "aten::conv3d" || name == "aten::convolution" ||
      name == "aten::_convolution") {
    return convolution(arguments, parameters);
  }
  return std::nullopt;
}

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
      auto call = call_of(function.name(), given.slice(given.size() - count), observer->parameters_);
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
    if (outputs.empty() || !outputs.back().isTensor()) return;
    const auto& output = outputs.back().toTensor();
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

}  // namespace

CapturedForward capture_layers(const network::Problem& problem, std::int64_t batch, std::int64_t copies) {
  CapturedForward result;
  result.reasons.assign(problem.parameters().size(),
                        "it is no weight or bias of a linear layer, a convolution or an embedding");
  {
    LayerObserver observer(problem.parameters());
    result.outputs = problem.matrix() == Matrix::hessian
                         ? engines::OutputMap{problem.loss(batch, copies), {}}
                         : engines::output_map(problem, problem.matrix(), batch, copies);
    if (!problem.by_inputs()) result.calls = observer.take();
  }
  const auto givers = givers_in(result.outputs.y);
  for (auto& call : result.calls) {
    keep_if_alone(call.weight, call, problem, givers, result.reasons);
    keep_if_alone(call.bias, call, problem, givers, result.reasons);
  }
  std::erase_if(result.calls, [](const LayerCall& call) { return !call.weight && !call.bias; });
  return result;
}

}  // namespace hessian_mpi::layers
