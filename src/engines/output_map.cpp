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

// The network's output with tensors of its own, which are leaves, in the place of those that have derivatives.
network::BatchOutput detached(const network::BatchOutput& output, std::vector<Tensor>& leaves) {
  network::BatchOutput copy = output;
  copy.value = mapped(output.value, [&](const Tensor& tensor) {
    if (!tensor.is_floating_point()) return tensor;
    return leaves.emplace_back(tensor.detach().clone().requires_grad_());
  });
  return copy;
}

// The loss as a function of outputs alone, derived once, with its graph.
struct LossOfOutputs {
  std::vector<Tensor> outputs;   // leaves
  std::vector<Tensor> gradient;  // by each
};

LossOfOutputs loss_of_outputs(const network::Problem& problem, const network::BatchOutput& of_network,
                              std::int64_t copies) {
  LossOfOutputs loss;
  const auto output = detached(of_network, loss.outputs);
  const Tensor value = problem.loss_of(output, problem.terms(output, copies));
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

OutputMap gauss_newton_map(const network::Problem& problem, const network::BatchOutput& output, std::int64_t copies) {
  const auto outputs = outputs_in(output.value);
  if (outputs.empty()) throw InputError("the model returns no floating-point tensor: there are no outputs to derive");
  return {flat(outputs), [loss = loss_of_outputs(problem, output, copies)](const Tensor& x) {
            return times_second_derivative(loss, x);
          }};
}

void expect_samples(const Tensor& tensor, Matrix matrix, std::int64_t samples) {
  if (tensor.dim() > 0 && tensor.size(0) == samples) return;
  throw InputError(text("--matrix ", name_of(matrix), ": the model returns a tensor of shape ", tensor.sizes(), " for ",
                        samples, " samples, so that it is not known which numbers are those of a sample"));
}

// The value of each sample. Split at once: a backward pass then puts their derivatives together in one operation.
std::vector<c10::IValue> samples_of(const c10::IValue& value, Matrix matrix, std::int64_t samples) {
  std::vector<std::vector<Tensor>> parts;  // of each tensor
  mapped(value, [&](const Tensor& tensor) {
    expect_samples(tensor, matrix, samples);
    parts.push_back(tensor.split(1));
    return tensor;
  });
  std::vector<c10::IValue> values;
  for (std::size_t s = 0; s < static_cast<std::size_t>(samples); ++s) {
    std::size_t next = 0;
    values.push_back(mapped(value, [&](const Tensor&) { return parts[next++][s]; }));
  }
  return values;
}

double weight_of_samples(const network::Problem& problem) {
  return problem.reduction() == Reduction::mean ? static_cast<double>(problem.samples()) : 1;
}

// The shares y are derived by the outputs once: a pass through the network then has no use for thousands of losses.
// What this returns has the value of y, and its derivatives.
Tensor shares_of_samples(const network::Problem& problem, Matrix matrix, const network::BatchOutput& of_network,
                         double terms) {
  std::vector<Tensor> leaves;
  const auto output = detached(of_network, leaves);
  const auto values = samples_of(output.value, matrix, output.samples);
  const auto targets = samples_of(output.targets, matrix, output.samples);
  std::vector<Tensor> shares;
  for (std::size_t s = 0; s < values.size(); ++s) shares.push_back(problem.loss_of({values[s], targets[s], 1}, terms));
  const Tensor all = torch::stack(shares);
  std::vector<Tensor> gradient(leaves.size());
  if (all.requires_grad()) {
    gradient = torch::autograd::grad({all}, leaves, {torch::ones_like(all)}, false, false, /*allow_unused=*/true);
  }
  Tensor y = all.detach();
  const auto outputs = outputs_in(of_network.value);
  for (std::size_t k = 0; k < leaves.size(); ++k) {
    if (!gradient[k].defined()) continue;
    y = y + ((outputs[k] - leaves[k].detach()) * gradient[k]).reshape({output.samples, -1}).sum(1);
  }
  return y;
}

OutputMap fisher_map(const network::Problem& problem, const network::BatchOutput& output, std::int64_t copies) {
  return {shares_of_samples(problem, Matrix::fisher, output, problem.terms(output, copies)),
          [weight = weight_of_samples(problem)](const Tensor& x) { return x * weight; }};
}

}  // namespace

OutputMap output_map(const network::Problem& problem, Matrix matrix, std::int64_t batch, std::int64_t copies) {
  const auto output = problem.output(batch, copies);
  return matrix == Matrix::ggn ? gauss_newton_map(problem, output, copies) : fisher_map(problem, output, copies);
}

Tensor numbers_of_samples(const network::Problem& problem, Matrix matrix, const network::BatchOutput& output,
                          double terms) {
  // Outputs may be narrower than parameters.
  const auto dtype = problem.parameters().front().scalar_type();
  if (matrix == Matrix::gradients) {
    return (shares_of_samples(problem, matrix, output, terms).to(dtype) * weight_of_samples(problem)).unsqueeze(1);
  }
  auto outputs = outputs_in(output.value);
  if (outputs.empty()) throw InputError("the model returns no floating-point tensor: there are no outputs to derive");
  for (auto& tensor : outputs) {
    expect_samples(tensor, matrix, output.samples);
    tensor = tensor.reshape({output.samples, -1});
  }
  return torch::cat(outputs, 1).to(dtype);
}

}  // namespace hessian_mpi::engines
