#include "hessian_mpi/engines/output_map.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <utility>
#include <vector>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::engines {
namespace {

using torch::Tensor;

// The value with its tensors replaced, one after the other.
c10::IValue mapped(const c10::IValue& value, const std::function<Tensor(const Tensor&)>& replace) {
  if (value.isTensor()) return replace(value.toTensor());
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const auto& element : value.toTupleRef().elements()) elements.push_back(mapped(element, replace));
    return c10::ivalue::Tuple::create(std::move(elements));
  }
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& element : value.toTensorVector()) list.push_back(replace(element));
    return list;
  }
  if (value.isGenericDict()) {
    const auto& from = value.toGenericDict();
    c10::impl::GenericDict dict(from.keyType(), from.valueType());
    for (const auto& entry : from) dict.insert(entry.key(), mapped(entry.value(), replace));
    return dict;
  }
  if (value.isNone() || value.isInt() || value.isDouble() || value.isBool() || value.isString()) return value;
  throw InputError(text("the model returns a value of type ", value.type()->repr_str(),
                        ": a matrix of outputs takes tensors in tuples, lists and dicts"));
}

std::vector<Tensor> outputs_in(const c10::IValue& value) {
  std::vector<Tensor> outputs;
  mapped(value, [&](const Tensor& tensor) {
    if (tensor.is_floating_point()) outputs.push_back(tensor);
    return tensor;
  });
  return outputs;
}

Tensor flat(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> parts;
  parts.reserve(tensors.size());
  for (const auto& tensor : tensors) parts.push_back(tensor.reshape(-1));
  return torch::cat(parts);
}

std::vector<Tensor> in_shape_of(const std::vector<Tensor>& tensors, const Tensor& numbers) {
  std::vector<Tensor> parts;
  std::int64_t offset = 0;
  for (const auto& tensor : tensors) {
    parts.push_back(numbers.narrow(0, offset, tensor.numel()).reshape(tensor.sizes()));
    offset += tensor.numel();
  }
  return parts;
}

// The loss as a function of outputs alone, derived once, with its graph.
struct LossOfOutputs {
  std::vector<Tensor> outputs;   // leaves
  std::vector<Tensor> gradient;  // by each
};

LossOfOutputs loss_of_outputs(const network::Problem& problem, const network::BatchOutput& of_network) {
  LossOfOutputs loss;
  network::BatchOutput detached = of_network;
  detached.value = mapped(of_network.value, [&](const Tensor& tensor) {
    if (!tensor.is_floating_point()) return tensor;
    return loss.outputs.emplace_back(tensor.detach().clone().requires_grad_());
  });
  const Tensor value = problem.loss_of(detached, problem.terms(detached));
  loss.gradient = torch::autograd::grad({value}, loss.outputs, {}, true, true, /*allow_unused=*/true);
  return loss;
}

// A x: the derivative of (gradient, x) by the outputs.
Tensor times_second_derivative(const LossOfOutputs& loss, const Tensor& x) {
  std::vector<Tensor> derived;
  std::vector<Tensor> cotangents;
  const auto parts = in_shape_of(loss.outputs, x);
  for (std::size_t k = 0; k < parts.size(); ++k) {
    if (!loss.gradient[k].defined() || !loss.gradient[k].requires_grad()) continue;
    derived.push_back(loss.gradient[k]);
    cotangents.push_back(parts[k]);
  }
  if (derived.empty()) return torch::zeros_like(x);  // a loss that is linear in its outputs
  auto products = torch::autograd::grad(derived, loss.outputs, cotangents, true, false, /*allow_unused=*/true);
  for (std::size_t k = 0; k < products.size(); ++k) {
    if (!products[k].defined()) products[k] = torch::zeros_like(loss.outputs[k]);
  }
  return flat(products);
}

OutputMap gauss_newton_map(const network::Problem& problem, const network::BatchOutput& output) {
  const auto outputs = outputs_in(output.value);
  if (outputs.empty()) throw InputError("the model returns no floating-point tensor: there are no outputs to derive");
  return {flat(outputs),
          [loss = loss_of_outputs(problem, output)](const Tensor& x) { return times_second_derivative(loss, x); }};
}

c10::IValue sample_of(const c10::IValue& value, std::int64_t sample, std::int64_t samples) {
  return mapped(value, [&](const Tensor& tensor) {
    if (tensor.dim() == 0 || tensor.size(0) != samples) {
      throw InputError(text("--matrix fisher: the model returns a tensor of shape ", tensor.sizes(), " for ", samples,
                            " samples, so that it is not known which numbers are those of a sample"));
    }
    return tensor.narrow(0, sample, 1);
  });
}

OutputMap fisher_map(const network::Problem& problem, const network::BatchOutput& output) {
  const double terms = problem.terms(output);
  std::vector<Tensor> shares;
  for (std::int64_t s = 0; s < output.samples; ++s) {
    const auto n = output.samples;
    shares.push_back(problem.loss_of({sample_of(output.value, s, n), sample_of(output.targets, s, n), 1}, terms));
  }
  const double weight = problem.reduction() == Reduction::mean ? static_cast<double>(problem.samples()) : 1;
  return {torch::stack(shares), [weight](const Tensor& x) { return x * weight; }};
}

}  // namespace

OutputMap output_map(const network::Problem& problem, Matrix matrix, std::int64_t batch) {
  const auto output = problem.output(batch);
  return matrix == Matrix::ggn ? gauss_newton_map(problem, output) : fisher_map(problem, output);
}

}  // namespace hessian_mpi::engines
