#include "layer_capture/operators.hpp"

#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "layer_capture/normalization.hpp"

namespace hessian_mpi::layers {
namespace {

using Arguments = c10::ArrayRef<c10::IValue>;

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

// What a convolution is called with, in the order of one operator or another.
struct ConvolutionArguments {
  const c10::IValue& stride;
  const c10::IValue& padding;
  const c10::IValue& dilation;
  const c10::IValue& groups;
  bool transposed;
};

// (input, weight, bias, stride, padding, dilation, groups); or with (..., transposed, output_padding, groups); or
// transposed, with (..., padding, output_padding, groups, dilation).
std::optional<ConvolutionArguments> convolution_arguments(std::string_view name, Arguments arguments) {
  if (name.starts_with("aten::conv_transpose")) {
    if (arguments.size() < 8) return std::nullopt;
    return ConvolutionArguments{arguments[3], arguments[4], arguments[7], arguments[6], true};
  }
  if (arguments.size() < 7) return std::nullopt;
  if (arguments.size() < 9) return ConvolutionArguments{arguments[3], arguments[4], arguments[5], arguments[6], false};
  return ConvolutionArguments{arguments[3], arguments[4], arguments[5], arguments[8], arguments[6].toBool()};
}

std::optional<LayerCall> convolution(std::string_view name, Arguments arguments,
                                     const std::vector<torch::Tensor>& parameters) {
  const auto given = convolution_arguments(name, arguments);
  if (!given) return std::nullopt;
  const auto weight = parameter_of(arguments[1], parameters);
  const auto bias = parameter_of(arguments[2], parameters);
  if (!weight && !bias) return std::nullopt;
  const auto& input = arguments[0].toTensor();
  auto sizes = arguments[1].toTensor().sizes().vec();
  if (input.dim() != static_cast<std::int64_t>(sizes.size()))
    return std::nullopt;  // a single sample, without its dimension
  const std::vector<std::int64_t> kernel(sizes.begin() + 2, sizes.end());
  Convolution geometry;
  geometry.transposed = given->transposed;
  geometry.stride = for_dimensions(given->stride, kernel.size());
  geometry.dilation = for_dimensions(given->dilation, kernel.size());
  geometry.groups = given->groups.toInt();
  if (!set_padding(given->padding, kernel, geometry)) return std::nullopt;
  if (geometry.transposed) {  // each input has a group of its own
    sizes[0] = sizes[1] * geometry.groups;
    sizes[1] = 1;
  }
  LayerCall call = call_with_input(input, sizes);
  call.weight = weight;
  call.bias = bias;
  call.convolution = std::move(geometry);
  return call;
}

// --- Elementwise layers ----------------------------------------------------------------------------------------------

// The last so many dimensions.
std::vector<std::int64_t> last_dimensions(std::int64_t count, std::int64_t dimensions) {
  std::vector<std::int64_t> dims(static_cast<std::size_t>(count));
  std::iota(dims.begin(), dims.end(), dimensions - count);
  return dims;
}

LayerCall elementwise_call(const torch::Tensor& a, const torch::autograd::Edge& input_edge,
                           std::vector<std::int64_t> feature_dims) {
  LayerCall call;
  call.elementwise = true;
  call.input = a;
  call.input_edge = input_edge;
  std::int64_t features = 1;
  for (const auto d : feature_dims) features *= a.size(d);
  call.weight_sizes = {features, features};
  call.feature_dims = std::move(feature_dims);
  return call;
}

std::optional<LayerCall> normalized_call(const torch::Tensor& x, Normalization normalization,
                                         std::vector<std::int64_t> feature_dims, const c10::IValue& weight,
                                         const c10::IValue& bias, const std::vector<torch::Tensor>& parameters) {
  const auto of_weight = parameter_of(weight, parameters);
  const auto of_bias = parameter_of(bias, parameters);
  if (!of_weight && !of_bias) return std::nullopt;
  const torch::Tensor a = normalized(normalization, x.detach());
  LayerCall call = elementwise_call(a, edge_into(x), std::move(feature_dims));
  call.weight = of_weight;
  call.bias = of_bias;
  call.normalization = std::move(normalization);
  return call;
}

// (input, normalized shape, weight, bias, epsilon)
std::optional<LayerCall> layer_norm(Arguments arguments, const std::vector<torch::Tensor>& parameters) {
  if (arguments.size() < 5) return std::nullopt;
  const auto& x = arguments[0].toTensor();
  const auto dims = last_dimensions(static_cast<std::int64_t>(arguments[1].toIntVector().size()), x.dim());
  return normalized_call(x, normalization_over(x.detach(), x.sizes().vec(), dims, arguments[4].toDouble()), dims,
                         arguments[2], arguments[3], parameters);
}

std::optional<LayerCall> group_norm(const torch::Tensor& x, std::int64_t groups, const c10::IValue& weight,
                                    const c10::IValue& bias, double epsilon,
                                    const std::vector<torch::Tensor>& parameters) {
  std::vector<std::int64_t> sizes{x.size(0), groups, x.numel() / (x.size(0) * groups)};
  return normalized_call(x, normalization_over(x.detach(), std::move(sizes), {2}, epsilon), {1}, weight, bias,
                         parameters);
}

// With the statistics of the batch, or with those that it was given.
std::optional<LayerCall> batch_norm(Arguments arguments, bool training, double epsilon,
                                    const std::vector<torch::Tensor>& parameters) {
  const auto& x = arguments[0].toTensor();
  if (training) {
    std::vector<std::int64_t> over;
    for (std::int64_t d = 0; d < x.dim(); ++d) {
      if (d != 1) over.push_back(d);
    }
    return normalized_call(x, normalization_over(x.detach(), x.sizes().vec(), over, epsilon), {1}, arguments[1],
                           arguments[2], parameters);
  }
  if (!arguments[3].isTensor() || !arguments[4].isTensor()) return std::nullopt;
  return normalized_call(x, fixed_normalization(x.detach(), arguments[3].toTensor(), arguments[4].toTensor(), epsilon),
                         {1}, arguments[1], arguments[2], parameters);
}

// The parameter whose elements, in their order, a tensor has, in whatever shape.
std::optional<std::size_t> elements_of(const c10::IValue& value, const std::vector<torch::Tensor>& parameters) {
  if (!value.isTensor()) return std::nullopt;
  const auto& tensor = value.toTensor();
  if (!tensor.requires_grad() || !tensor.is_contiguous()) return std::nullopt;
  return parameter_where(parameters, [&](const torch::Tensor& p) {
    return p.is_contiguous() && p.numel() == tensor.numel() && p.data_ptr() == tensor.data_ptr();
  });
}

// Whether the result of an elementwise operation has the sizes of one of its operands, and if so in which of the
// dimensions the other one differs from element to element.
std::optional<std::vector<std::int64_t>> dimensions_within(const torch::Tensor& operand, const torch::Tensor& result) {
  const auto before = result.dim() - operand.dim();
  if (before < 0) return std::nullopt;
  std::vector<std::int64_t> dims;
  for (std::int64_t d = 0; d < operand.dim(); ++d) {
    if (operand.size(d) != 1 && operand.size(d) != result.size(before + d)) return std::nullopt;
    if (operand.size(d) != 1) dims.push_back(before + d);
  }
  return dims;
}

// (one, other, ...): z = a * w or z = a + b.
std::optional<LayerCall> elementwise(Arguments arguments, bool product, const std::vector<torch::Tensor>& parameters) {
  if (arguments.size() < 2 || !arguments[0].isTensor() || !arguments[1].isTensor()) return std::nullopt;
  for (const std::size_t k : {1, 0}) {
    const auto parameter = elements_of(arguments[k], parameters);
    const auto& operand = arguments[k].toTensor();
    const auto& a = arguments[1 - k].toTensor();
    if (!parameter || operand.scalar_type() != a.scalar_type()) continue;
    const auto dims = dimensions_within(operand, a);
    if (!dims) continue;
    // A sum has no use for what its other operand depends on.
    // What is multiplied in place is not there any more.
    auto call = elementwise_call(product ? a.detach().clone() : a.detach(),
                                 product ? edge_into(a) : torch::autograd::Edge(), *dims);
    (product ? call.weight : call.bias) = parameter;
    return call;
  }
  return std::nullopt;
}

}  // namespace

std::optional<LayerCall> call_of(std::string_view name, c10::ArrayRef<c10::IValue> arguments,
                                 const std::vector<torch::Tensor>& parameters) {
  if (name == "aten::linear") return linear(arguments, parameters);
  if (name == "aten::addmm") return addmm(arguments, parameters);
  if (name == "aten::mm" || name == "aten::matmul") return product(arguments, parameters);
  if (name == "aten::embedding") return embedding(arguments, parameters);
  if (name == "aten::layer_norm" || name == "aten::native_layer_norm") return layer_norm(arguments, parameters);
  if (name == "aten::group_norm" && arguments.size() >= 5) {
    return group_norm(arguments[0].toTensor(), arguments[1].toInt(), arguments[2], arguments[3],
                      arguments[4].toDouble(), parameters);
  }
  if (name == "aten::native_group_norm" && arguments.size() >= 8) {
    return group_norm(arguments[0].toTensor(), arguments[6].toInt(), arguments[1], arguments[2],
                      arguments[7].toDouble(), parameters);
  }
  if ((name == "aten::batch_norm" || name == "aten::_native_batch_norm_legit") && arguments.size() >= 8) {
    return batch_norm(arguments, arguments[5].toBool(), arguments[7].toDouble(), parameters);
  }
  if (name == "aten::_native_batch_norm_legit_no_training" && arguments.size() >= 7) {
    return batch_norm(arguments, false, arguments[6].toDouble(), parameters);
  }
  if (name == "aten::mul" || name == "aten::mul_") return elementwise(arguments, true, parameters);
  if ((name == "aten::add" || name == "aten::add_") && (arguments.size() < 3 || is_one(arguments[2]))) {
    return elementwise(arguments, false, parameters);
  }
  constexpr std::array convolutions{"aten::conv1d",           "aten::conv2d",           "aten::conv3d",
                                    "aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d",
                                    "aten::convolution",      "aten::_convolution"};
  if (std::find(convolutions.begin(), convolutions.end(), name) != convolutions.end()) {
    return convolution(name, arguments, parameters);
  }
  return std::nullopt;
}

// (one, other, factor of the other)
std::optional<LayerCall> spread_embedding(std::string_view name, c10::ArrayRef<c10::IValue> arguments,
                                          const std::vector<LayerCall>& calls) {
  if ((name != "aten::add" && name != "aten::add_") || arguments.size() < 2 || !arguments[0].isTensor() ||
      !arguments[1].isTensor() || (arguments.size() > 2 && !is_one(arguments[2]))) {
    return std::nullopt;
  }
  for (const std::size_t k : {1, 0}) {
    const auto& operand = arguments[k].toTensor();
    const auto& other = arguments[1 - k].toTensor();
    if (operand.numel() >= other.numel() || !dimensions_within(operand, other)) continue;
    const auto edge = edge_into(operand);
    for (std::size_t c = 0; c < calls.size() && edge.is_valid(); ++c) {
      if (!calls[c].embedding || !(calls[c].output_edge == edge) || operand.size(-1) != other.size(-1)) continue;
      LayerCall call = calls[c];
      auto sizes = other.sizes().vec();
      sizes.back() = call.input.size(-1);
      call.input = call.input.expand(sizes);
      call.instead_of = c;
      return call;
    }
  }
  return std::nullopt;
}

}  // namespace hessian_mpi::layers
