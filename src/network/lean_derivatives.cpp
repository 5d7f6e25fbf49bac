#include "lean_derivatives.hpp"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/ExpandUtils.h>
#include <ATen/ops/batch_norm_native.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "lean_derivatives/attention.hpp"
#include "lean_derivatives/function.hpp"
#include "lean_derivatives/matrix_products.hpp"
#include "lean_derivatives/normalization_rows.hpp"
#include "lean_derivatives/softmax.hpp"

namespace hessian_mpi::network {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

// --- Activations ---------------------------------------------------------------------------------------------------

// `gradient` is LibTorch's g f'(x), `slope` the same f' by operators that can be derived.
struct Gelu {
  static Tensor value(const Tensor& x) { return at::gelu(x, "none"); }
  static Tensor gradient(const Tensor& g, const Tensor& x) { return at::gelu_backward(g, x, "none"); }
  static Tensor slope(const Tensor& x) {
    const double height = 1 / std::sqrt(2 * M_PI);
    return 0.5 * (1 + (x * M_SQRT1_2).erf()) + x * (-0.5 * x * x).exp() * height;
  }
};

struct GeluByTanh {
  static Tensor value(const Tensor& x) { return at::gelu(x, "tanh"); }
  static Tensor gradient(const Tensor& g, const Tensor& x) { return at::gelu_backward(g, x, "tanh"); }
  static Tensor slope(const Tensor& x) {
    const double scale = std::sqrt(2 / M_PI), cubic = 0.044715;
    const Tensor t = (scale * (x + cubic * x * x * x)).tanh();
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x);
  }
};

struct Silu {
  static Tensor value(const Tensor& x) { return at::silu(x); }
  static Tensor gradient(const Tensor& g, const Tensor& x) { return at::silu_backward(g, x); }
  static Tensor slope(const Tensor& x) {
    const Tensor s = x.sigmoid();
    return s * (1 + x * (1 - s));
  }
};

template <class Activation>
struct ActivationGradient : Function<ActivationGradient<Activation>> {
  static Tensor forward(AutogradContext* graph, const Tensor& g, const Tensor& x) {
    graph->save_for_backward({g, x});
    const Kernels kernels;
    return Activation::gradient(g, x);
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const Tensor &h = cotangents[0], &g = saved[0], &x = saved[1];
    if (at::GradMode::is_enabled()) return derivable(h, g, x);
    const Tensor slope = once(graph, "slope", [&] { return Activation::gradient(at::ones_like(x), x); });
    const Tensor bend = once(graph, "bend", [&] { return g * curvature(x.detach()); });
    return {h * slope, h * bend};
  }

 private:
  static Tensor curvature(const Tensor& x) {
    const at::AutoGradMode on(true);
    const Tensor free = x.requires_grad() ? x : x.detach().requires_grad_();
    const Tensor slope = Activation::slope(free);
    return torch::autograd::grad({slope}, {free}, {at::ones_like(slope)}, true, /*create_graph=*/x.requires_grad())[0];
  }

  static variable_list derivable(const Tensor& h, const Tensor& g, const Tensor& x) {
    return {h * Activation::slope(x), h * g * curvature(x)};
  }
};

template <class Activation>
Tensor activation_gradient(const Tensor& g, const Tensor& x) {
  if (is_derived(g, x)) return ActivationGradient<Activation>::apply(g, x);
  const Kernels kernels;
  return Activation::gradient(g, x);
}

// LibTorch makes the derivative of some activations out of other operators where it is to be derived, and computes that
// of all again for each cotangent.
template <class Activation>
struct Activated : Function<Activated<Activation>> {
  static Tensor forward(AutogradContext* graph, const Tensor& x) {
    graph->save_for_backward({x});
    const Kernels kernels;
    return Activation::value(x);
  }
  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const Tensor &g = cotangents[0], x = graph->get_saved_variables()[0];
    if (at::GradMode::is_enabled()) return {activation_gradient<Activation>(g, x)};
    return {g * once(graph, "slope", [&] { return Activation::gradient(at::ones_like(x), x.detach()); })};
  }
};

template <class Activation>
Tensor activation(const Tensor& x) {
  if (is_derived(x, x)) return Activated<Activation>::apply(x);
  const Kernels kernels;
  return Activation::value(x);
}

Tensor gelu(const Tensor& x, c10::string_view approximate) {
  return approximate == "tanh" ? activation<GeluByTanh>(x) : activation<Gelu>(x);
}

Tensor gelu_gradient(const Tensor& g, const Tensor& x, c10::string_view approximate) {
  return approximate == "tanh" ? activation_gradient<GeluByTanh>(g, x) : activation_gradient<Gelu>(g, x);
}

// --- Products of matrices ------------------------------------------------------------------------------------------

Tensor product(const Tensor& a, const Tensor& b) {
  if (!is_derived(a, b)) return plain_product(a, b);
  const auto whole = attention(a, b);
  return whole ? *whole : derived_product(a, b);
}

// --- Convolutions --------------------------------------------------------------------------------------------------

struct Convolution {
  std::vector<std::int64_t> stride, padding, dilation;
  bool transposed = false;
  std::vector<std::int64_t> output_padding;
  std::int64_t groups = 1;

  Tensor of(const Tensor& x, const Tensor& weight) const {
    return at::convolution(x, weight, {}, stride, padding, dilation, transposed, output_padding, groups);
  }
  std::tuple<Tensor, Tensor, Tensor> gradients(const Tensor& g, const Tensor& x, const Tensor& weight,
                                               std::array<bool, 3> wanted) const {
    return at::convolution_backward(g, x, weight, at::IntArrayRef{g.size(1)}, stride, padding, dilation, transposed,
                                    output_padding, groups, wanted);
  }
};

// Of a convolution's gradients by its input, weight and bias those that are wanted. Each is linear in two of g, x and
// the weight, so that their derivatives are convolutions and gradients again; LibTorch's computes that by the weight
// whether it is asked for or not, a third of a pass.
struct ConvolutionGradients : Function<ConvolutionGradients> {
  static variable_list forward(AutogradContext* graph, const Tensor& g, const Tensor& x, const Tensor& weight,
                               const Convolution& convolution, std::array<bool, 3> wanted) {
    graph->set_materialize_grads(false);
    graph->save_for_backward({g, x, weight});
    keep(convolution, graph);
    graph->saved_data["wanted"] = std::vector<bool>(wanted.begin(), wanted.end());
    const Kernels kernels;
    const auto [by_x, by_weight, by_bias] = convolution.gradients(g, x, weight, wanted);
    variable_list found;
    if (wanted[0]) found.push_back(by_x);
    if (wanted[1]) found.push_back(by_weight);
    if (wanted[2]) found.push_back(by_bias);
    return found;
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const Tensor &g = saved[0], &x = saved[1], &weight = saved[2];
    const auto convolution = convolution_of(graph);
    const auto [of_x, of_weight, of_bias] = in_place_of(graph, cotangents);
    variable_list result(5);
    if (graph->needs_input_grad(0)) {
      const auto add = [&](const Tensor& part) { result[0] = result[0].defined() ? result[0] + part : part; };
      if (of_x.defined()) add(convolution.of(of_x, weight));
      if (of_weight.defined()) add(convolution.of(x, of_weight));
      if (of_bias.defined()) {
        std::vector<std::int64_t> sizes(static_cast<std::size_t>(g.dim()), 1);
        sizes[1] = -1;
        add(of_bias.reshape(sizes).expand_as(g));
      }
    }
    if (of_weight.defined() && graph->needs_input_grad(1)) {
      result[1] = std::get<0>(convolution.gradients(g, x, of_weight, {true, false, false}));
    }
    if (of_x.defined() && graph->needs_input_grad(2)) {
      result[2] = std::get<1>(convolution.gradients(g, of_x, weight, {false, true, false}));
    }
    return result;
  }

 private:
  static void keep(const Convolution& convolution, AutogradContext* graph) {
    auto& data = graph->saved_data;
    data["stride"] = convolution.stride;
    data["padding"] = convolution.padding;
    data["dilation"] = convolution.dilation;
    data["transposed"] = convolution.transposed;
    data["output_padding"] = convolution.output_padding;
    data["groups"] = convolution.groups;
  }
  static Convolution convolution_of(AutogradContext* graph) {
    auto& data = graph->saved_data;
    return {data["stride"].toIntVector(), data["padding"].toIntVector(),        data["dilation"].toIntVector(),
            data["transposed"].toBool(),  data["output_padding"].toIntVector(), data["groups"].toInt()};
  }
  // The cotangents of all three, undefined where there is none.
  static std::array<Tensor, 3> in_place_of(AutogradContext* graph, const variable_list& cotangents) {
    const auto wanted = graph->saved_data["wanted"].toBoolList();
    std::array<Tensor, 3> all;
    for (std::size_t k = 0, next = 0; k < 3; ++k) {
      if (wanted.get(k)) all[k] = cotangents[next++];
    }
    return all;
  }
};

std::tuple<Tensor, Tensor, Tensor> convolution_gradients(const Tensor& g, const Tensor& x, const Tensor& weight,
                                                         at::OptionalIntArrayRef bias_sizes, at::IntArrayRef stride,
                                                         at::IntArrayRef padding, at::IntArrayRef dilation,
                                                         bool transposed, at::IntArrayRef output_padding,
                                                         std::int64_t groups, std::array<bool, 3> wanted) {
  if (!is_derived(g, x) && !is_derived(weight, weight)) {
    const Kernels kernels;
    return at::convolution_backward(g, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
                                    groups, wanted);
  }
  const Convolution convolution{stride.vec(), padding.vec(), dilation.vec(), transposed, output_padding.vec(), groups};
  const auto found = ConvolutionGradients::apply(g, x, weight, convolution, wanted);
  std::array<Tensor, 3> all;
  for (std::size_t k = 0, next = 0; k < 3; ++k) {
    if (wanted[k]) all[k] = found[next++];
  }
  return {all[0], all[1], all[2]};
}

// --- Masks ---------------------------------------------------------------------------------------------------------

// x where a mask is not set, and 0 where it is, whatever x is there. kept: integers as wide as the numbers, all bits of
// them set where x is kept: LibTorch's own looks at each number by itself.
Tensor kept_numbers(const Tensor& x, const Tensor& kept) {
  return x.view(kept.scalar_type()).bitwise_and(kept).view(x.scalar_type());
}

struct Kept : Function<Kept> {
  static Tensor forward(AutogradContext* graph, const Tensor& x, const Tensor& kept) {
    graph->saved_data["kept"] = kept;
    const Kernels kernels;
    return kept_numbers(x, kept);
  }
  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const Tensor kept = graph->saved_data["kept"].toTensor();
    const Tensor& x = cotangents[0];
    if (x.requires_grad() && at::GradMode::is_enabled()) return {Kept::apply(x, kept), {}};
    return {kept_numbers(x.detach(), kept), {}};
  }
};

struct MaskedFill : Function<MaskedFill> {
  static Tensor forward(AutogradContext* graph, const Tensor& x, const Tensor& mask, const at::Scalar& value) {
    graph->saved_data["mask"] = mask.detach();
    const Kernels kernels;
    return x.masked_fill(mask, value);
  }
  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const Tensor& g = cotangents[0];
    const Tensor kept = once(graph, "kept", [&] {
      const auto integers = g.element_size() == 8 ? at::kLong : at::kInt;
      return graph->saved_data["mask"].toTensor().logical_not().to(integers).neg();
    });
    if (g.requires_grad() && at::GradMode::is_enabled()) return {Kept::apply(g, kept), {}, {}};
    return {kept_numbers(g.detach(), kept), {}, {}};
  }
};

Tensor masked_fill(const Tensor& x, const Tensor& mask, const at::Scalar& value) {
  const bool is_wide = x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble;
  if (is_wide && is_derived(x, x) && mask.scalar_type() == at::kBool) {
    const auto sizes = at::infer_size(x.sizes(), mask.sizes());
    return MaskedFill::apply(x.sizes() == sizes ? x : x.expand(sizes), mask, value);
  }
  if (is_derived(x, x)) return at::where(mask, at::scalar_tensor(value, x.options().requires_grad(false)), x);
  const Kernels kernels;
  return x.masked_fill(mask, value);
}

// --- Norms ---------------------------------------------------------------------------------------------------------

// The derivative of normalised rows u of x [R, n] times v, r (v - mean v - u mean u v), which is symmetric; r one over
// the deviation.
Tensor times_derivative(const Tensor& v, const Tensor& x, const Tensor& mean, const Tensor& inverse_deviation) {
  const Kernels kernels;
  return std::get<0>(at::native_layer_norm_backward(v.contiguous(), x, {x.size(1)}, mean, inverse_deviation, {}, {},
                                                    {true, false, false}));
}

Tensor row_mean(const Tensor& x) {
  return x.mean(1, /*keepdim=*/true);
}

struct NormalizationGradient : Function<NormalizationGradient> {
  static Tensor forward(AutogradContext* graph, const Tensor& v, const Tensor& x, const Tensor& mean,
                        const Tensor& inverse_deviation, double epsilon) {
    Tensor result = times_derivative(v, x, mean, inverse_deviation);
    graph->save_for_backward({v, x});
    graph->saved_data["mean"] = mean;
    graph->saved_data["r"] = inverse_deviation;
    graph->saved_data["epsilon"] = epsilon;
    graph->saved_data["result"] = result.detach();
    return result;
  }

  // Of h r (v - mean v - u mean u v) by x: with d = r (h - mean h - u mean u h),
  // -r (d mean(u v) + result mean(u h) + u mean(d v)).
  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const Tensor &h = cotangents[0], &v = saved[0], &x = saved[1];
    auto& data = graph->saved_data;
    if (at::GradMode::is_enabled()) return derivable(h, v, x, data["epsilon"].toDouble());
    const Tensor mean = data["mean"].toTensor(), r = data["r"].toTensor();
    if (are_plain({h, v, x, mean, r})) return in_one_loop(h, v, x, mean, r);
    const Tensor u = once(graph, "u", [&] { return (x.detach() - mean) * r; });
    const Tensor of_v = once(graph, "of v", [&] { return row_mean(u * v) * r; });
    const Tensor of_result = once(graph, "of result", [&] { return data["result"].toTensor() * r; });
    const Tensor of_u = once(graph, "of u", [&] { return u * r; });
    const Tensor d = times_derivative(h, x, mean, r);
    Tensor by_x = (d * of_v).addcmul_(of_result, row_mean(u * h)).addcmul_(of_u, row_mean(d * v)).neg_();
    return {d, std::move(by_x), {}, {}, {}};
  }

 private:
  static variable_list in_one_loop(const Tensor& h, const Tensor& v, const Tensor& x, const Tensor& mean,
                                   const Tensor& r) {
    Tensor by_v = at::empty_like(x), by_x = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "normalization", [&] {
      const NormalizedRows<scalar_t> rows{x.const_data_ptr<scalar_t>(), mean.const_data_ptr<scalar_t>(),
                                          r.const_data_ptr<scalar_t>(), x.size(0), x.size(1)};
      differentiate_normalization_gradient(h.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(), rows,
                                           by_v.mutable_data_ptr<scalar_t>(), by_x.mutable_data_ptr<scalar_t>());
    });
    return {std::move(by_v), std::move(by_x), {}, {}, {}};
  }

  static variable_list derivable(const Tensor& h, const Tensor& v, const Tensor& x, double epsilon) {
    const Tensor from_mean = x - row_mean(x);
    const Tensor r = (row_mean(from_mean.square()) + epsilon).rsqrt(), u = from_mean * r;
    const auto of = [&](const Tensor& t) { return r * (t - row_mean(t) - u * row_mean(u * t)); };
    const Tensor d = of(h);
    return {d, -r * (d * row_mean(u * v) + of(v) * row_mean(u * h) + u * row_mean(d * v)), {}, {}, {}};
  }
};

struct Normalization : Function<Normalization> {
  static variable_list forward(AutogradContext* graph, const Tensor& x, double epsilon) {
    const Kernels kernels;
    const auto [normalized, mean, r] = at::native_layer_norm(x, {x.size(1)}, {}, {}, epsilon);
    graph->save_for_backward({x});
    graph->mark_non_differentiable({mean, r});
    graph->saved_data["mean"] = mean.detach();
    graph->saved_data["r"] = r.detach();
    graph->saved_data["epsilon"] = epsilon;
    return {normalized, mean, r};
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const Tensor x = graph->get_saved_variables()[0];
    auto& data = graph->saved_data;
    const Tensor mean = data["mean"].toTensor(), r = data["r"].toTensor();
    if (!at::GradMode::is_enabled()) return {times_derivative(cotangents[0], x, mean, r), {}};
    return {NormalizationGradient::apply(cotangents[0], x, mean, r, data["epsilon"].toDouble()), {}};
  }
};

// Numbers of half precision are computed with in float32, as LibTorch does.
Tensor wide(const Tensor& x) {
  return x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
}

bool is_given(const OptionalTensor& parameter) {
  return parameter && parameter->defined();
}

Tensor scaled_and_moved(const Tensor& normalized, const OptionalTensor& weight, const OptionalTensor& bias,
                        at::IntArrayRef shape) {
  const auto of = [&](const OptionalTensor& parameter) { return wide(*parameter).reshape(shape); };
  const bool scaled = is_given(weight), moved = is_given(bias);
  if (scaled && moved) return at::addcmul(of(bias), normalized, of(weight));
  if (scaled) return normalized * of(weight);
  return moved ? normalized + of(bias) : normalized;
}

using NormResult = std::tuple<Tensor, Tensor, Tensor>;

std::vector<std::int64_t> sizes_of_rows(const Tensor& x, at::IntArrayRef shape) {
  auto sizes = x.sizes().vec();
  std::fill(sizes.end() - static_cast<std::ptrdiff_t>(shape.size()), sizes.end(), 1);
  return sizes;
}

Tensor in_rows(const Tensor& x, std::int64_t size) {
  return wide(x).contiguous().reshape({-1, size});
}

NormResult layer_norm(const Tensor& x, at::IntArrayRef shape, const OptionalTensor& weight, const OptionalTensor& bias,
                      double epsilon) {
  const auto size = c10::multiply_integers(shape);
  if (x.numel() == 0 || size == 0) {
    const Kernels kernels;
    return at::native_layer_norm(x, shape, weight, bias, epsilon);
  }
  const auto rows = Normalization::apply(in_rows(x, size), epsilon);
  const auto of_rows = sizes_of_rows(x, shape);
  const Tensor y = scaled_and_moved(rows[0].reshape(x.sizes()), weight, bias, shape);
  return {y.to(x.scalar_type()), rows[1].reshape(of_rows), rows[2].reshape(of_rows)};
}

// Called by networks that were traced with a derivative inside. LibTorch's takes mean and deviation for constants where
// its derivative is derived again: wrong, and silently so.
NormResult layer_norm_gradient(const Tensor& g, const Tensor& x, at::IntArrayRef shape, const Tensor& mean,
                               const Tensor& inverse_deviation, const OptionalTensor& weight,
                               const OptionalTensor& bias, std::array<bool, 3> wanted) {
  const auto size = c10::multiply_integers(shape);
  if (!is_derived(g, x) && !(is_given(weight) && is_derived(g, *weight))) {
    const Kernels kernels;
    return at::native_layer_norm_backward(g, x, shape, mean, inverse_deviation, weight, bias, wanted);
  }
  const Tensor rows = in_rows(x, size), r = inverse_deviation.detach().reshape({-1, 1});
  const Tensor variance = rows.detach().var(at::IntArrayRef{1}, /*unbiased=*/false, /*keepdim=*/true);
  const auto epsilon = (r.pow(-2) - variance).mean().item<double>();
  std::vector<std::int64_t> leading(static_cast<std::size_t>(x.dim()) - shape.size());
  std::iota(leading.begin(), leading.end(), std::int64_t{0});
  const auto sum = [&](const Tensor& t) { return leading.empty() ? t : t.sum(leading); };
  NormResult result;
  if (wanted[0]) {
    const Tensor v = is_given(weight) ? wide(g) * wide(*weight) : wide(g);
    std::get<0>(result) =
        NormalizationGradient::apply(in_rows(v, size), rows, mean.detach().reshape({-1, 1}), r, epsilon)
            .reshape(x.sizes())
            .to(x.scalar_type());
  }
  if (wanted[1]) {
    std::get<1>(result) =
        sum(wide(g) * Normalization::apply(rows, epsilon)[0].reshape(x.sizes())).to(weight->scalar_type());
  }
  if (wanted[2]) std::get<2>(result) = sum(g);
  return result;
}

// Mean and deviation can be derived, as LibTorch's can: what it has traced of a derivative computes with them.
NormResult group_norm(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, std::int64_t samples,
                      std::int64_t channels, std::int64_t places, std::int64_t groups, double epsilon) {
  if (x.numel() == 0) {
    const Kernels kernels;
    return at::native_group_norm(x, weight, bias, samples, channels, places, groups, epsilon);
  }
  const Tensor rows = in_rows(x, x.numel() / (samples * groups));
  const Tensor normalized = Normalization::apply(rows, epsilon)[0];
  const Tensor y = scaled_and_moved(normalized.reshape({samples, channels, places}), weight, bias, {channels, 1});
  const Tensor mean = row_mean(rows);
  const Tensor inverse = (row_mean((rows - mean).square()) + epsilon).rsqrt();
  return {y.reshape(x.sizes()).to(x.scalar_type()), mean.reshape({samples, groups}),
          inverse.reshape({samples, groups})};
}

// With the mean and variance of all data: nothing is derived through them.
Tensor fixed_batch_norm(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
                        const Tensor& variance, double epsilon) {
  std::vector<std::int64_t> of_channels(static_cast<std::size_t>(x.dim()), 1);
  of_channels[1] = x.size(1);
  const Tensor inverse = (wide(variance).detach() + epsilon).rsqrt().reshape(of_channels);
  const Tensor normalized = (wide(x) - wide(mean).detach().reshape(of_channels)) * inverse;
  return scaled_and_moved(normalized, weight, bias, of_channels).to(x.scalar_type());
}

Tensor batch_norm(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                  const OptionalTensor& running_mean, const OptionalTensor& running_variance, bool training,
                  double momentum, double epsilon, bool cudnn_enabled) {
  const bool fixed = !training && is_given(running_mean) && is_given(running_variance) && x.dim() > 1;
  if (fixed) return fixed_batch_norm(x, weight, bias, *running_mean, *running_variance, epsilon);
  return at::native::batch_norm(x, weight, bias, running_mean, running_variance, training, momentum, epsilon,
                                cudnn_enabled);
}

NormResult batch_norm_of_export(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                                const Tensor& running_mean, const Tensor& running_variance, double /*momentum*/,
                                double epsilon) {
  const Tensor none = at::empty({0}, running_mean.options());
  return {fixed_batch_norm(x, weight, bias, running_mean, running_variance, epsilon), none, none};
}

}  // namespace

void register_lean_derivatives(torch::Library& library) {
  library.impl("gelu", TORCH_FN(gelu));
  library.impl("gelu_backward", TORCH_FN(gelu_gradient));
  library.impl("silu", TORCH_FN(activation<Silu>));
  library.impl("silu_backward", TORCH_FN(activation_gradient<Silu>));
  library.impl("bmm", TORCH_FN(product));
  library.impl("convolution_backward", TORCH_FN(convolution_gradients));
  library.impl("masked_fill.Scalar", TORCH_FN(masked_fill));
  library.impl("_softmax", TORCH_FN(softmax));
  library.impl("_safe_softmax", TORCH_FN(safe_softmax));
  library.impl("_softmax_backward_data", TORCH_FN(softmax_gradient));
  library.impl("_log_softmax_backward_data", TORCH_FN(log_softmax_gradient));
  library.impl("native_layer_norm", TORCH_FN(layer_norm));
  library.impl("native_layer_norm_backward", TORCH_FN(layer_norm_gradient));
  library.impl("native_group_norm", TORCH_FN(group_norm));
  library.impl("batch_norm", TORCH_FN(batch_norm));
  library.impl("_native_batch_norm_legit_no_training", TORCH_FN(batch_norm_of_export));
}

}  // namespace hessian_mpi::network
