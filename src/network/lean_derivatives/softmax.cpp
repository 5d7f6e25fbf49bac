#include "lean_derivatives/softmax.hpp"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/autograd.h>

#include <initializer_list>

#include "lean_derivatives/function.hpp"
#include "lean_derivatives/softmax_rows.hpp"

namespace hessian_mpi::network {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// `gradient` is LibTorch's of y by its input along a dimension, g being that by y; `derivatives` of h times it, by g
// and y.
struct Softmax {  // y (g - sum y g)
  static Tensor gradient(const Tensor& g, const Tensor& y, std::int64_t dim, at::ScalarType dtype) {
    return at::_softmax_backward_data(g, y, dim, dtype);
  }
  static variable_list derivatives(AutogradContext* graph, const Tensor& h, const Tensor& g, const Tensor& y,
                                   std::int64_t dim) {
    if (!at::GradMode::is_enabled() && lie_in_rows(h, g, y, dim)) return in_one_loop(h, g, y);
    const Tensor yh = y * h, sum = row_sum(yh, dim);
    if (at::GradMode::is_enabled()) return {yh - y * sum, h * (g - row_sum(g * y, dim)) - g * sum, {}, {}};
    const Tensor centred = once(graph, "centred", [&] { return g - row_sum(g * y, dim); });
    return {at::addcmul(yh, y, sum, -1), (h * centred).addcmul_(g, sum, -1), {}, {}};
  }

 private:
  static bool lie_in_rows(const Tensor& h, const Tensor& g, const Tensor& y, std::int64_t dim) {
    const bool last = y.dim() > 0 && (dim == -1 || dim == y.dim() - 1) && y.size(-1) > 0;
    return last && h.sizes() == y.sizes() && g.sizes() == y.sizes() && are_plain({h, g, y});
  }
  static variable_list in_one_loop(const Tensor& h, const Tensor& g, const Tensor& y) {
    const Tensor by_g = at::empty_like(y), by_y = at::empty_like(y);
    const auto size = y.size(-1);
    AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "softmax", [&] {
      differentiate_softmax_gradient(h.const_data_ptr<scalar_t>(), g.const_data_ptr<scalar_t>(),
                                     y.const_data_ptr<scalar_t>(), y.numel() / size, size,
                                     by_g.mutable_data_ptr<scalar_t>(), by_y.mutable_data_ptr<scalar_t>());
    });
    return {by_g, by_y, {}, {}};
  }
};

struct LogSoftmax {  // g - exp(y) sum g
  static Tensor gradient(const Tensor& g, const Tensor& y, std::int64_t dim, at::ScalarType dtype) {
    return at::_log_softmax_backward_data(g, y, dim, dtype);
  }
  static variable_list derivatives(AutogradContext* graph, const Tensor& h, const Tensor& g, const Tensor& y,
                                   std::int64_t dim) {
    const auto of_y = [&] { return y.exp(); };
    const Tensor p = at::GradMode::is_enabled() ? of_y() : once(graph, "p", of_y);
    const auto of_g = [&] { return -p * row_sum(g, dim); };
    const Tensor bend = at::GradMode::is_enabled() ? of_g() : once(graph, "bend", of_g);
    return {h - row_sum(p * h, dim), h * bend, {}, {}};
  }
};

template <class Kind>
struct GradientAlong : Function<GradientAlong<Kind>> {
  static Tensor forward(AutogradContext* graph, const Tensor& g, const Tensor& y, std::int64_t dim,
                        at::ScalarType dtype) {
    graph->save_for_backward({g, y});
    graph->saved_data["dim"] = dim;
    const Kernels kernels;
    return Kind::gradient(g, y, dim, dtype);
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const Tensor &g = saved[0], &y = saved[1];
    return Kind::derivatives(graph, cotangents[0].to(y.scalar_type()), g, y, graph->saved_data["dim"].toInt());
  }
};

template <class Kind>
Tensor gradient_along(const Tensor& g, const Tensor& y, std::int64_t dim, at::ScalarType dtype) {
  if (is_derived(g, y)) return GradientAlong<Kind>::apply(g, y, dim, dtype);
  const Kernels kernels;
  return Kind::gradient(g, y, dim, dtype);
}

// Of all softmax, whatever the operator, so that attention finds it in the graph.
struct Normalized : Function<Normalized> {
  static Tensor forward(AutogradContext* graph, const Tensor& x, std::int64_t dim, bool half_to_float, bool is_safe) {
    const Kernels kernels;
    Tensor y = is_safe ? at::_safe_softmax(x, dim) : at::_softmax(x, dim, half_to_float);
    graph->save_for_backward({y});
    graph->saved_data["dim"] = dim;
    graph->saved_data["type"] = x.scalar_type();
    return y;
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const Tensor y = graph->get_saved_variables()[0];
    auto& data = graph->saved_data;
    const auto dim = data["dim"].toInt();
    return {gradient_along<Softmax>(cotangents[0], y, dim, data["type"].toScalarType()), {}, {}, {}};
  }
};

}  // namespace

Tensor softmax(const Tensor& x, std::int64_t dim, bool half_to_float) {
  if (is_derived(x, x)) return Normalized::apply(x, dim, half_to_float, /*is_safe=*/false);
  const Kernels kernels;
  return at::_softmax(x, dim, half_to_float);
}

Tensor safe_softmax(const Tensor& x, std::int64_t dim, std::optional<at::ScalarType> dtype) {
  if (is_derived(x, x)) return Normalized::apply(dtype ? x.to(*dtype) : x, dim, false, /*is_safe=*/true);
  const Kernels kernels;
  return at::_safe_softmax(x, dim, dtype);
}

Tensor softmax_gradient(const Tensor& g, const Tensor& y, std::int64_t dim, at::ScalarType dtype) {
  return gradient_along<Softmax>(g, y, dim, dtype);
}

Tensor log_softmax_gradient(const Tensor& g, const Tensor& y, std::int64_t dim, at::ScalarType dtype) {
  return gradient_along<LogSoftmax>(g, y, dim, dtype);
}

bool is_softmax_of_rows(torch::autograd::Node& function) {
  auto* const softmax = dynamic_cast<torch::autograd::CppNode<Normalized>*>(&function);
  if (softmax == nullptr) return false;
  const auto dim = softmax->ctx_.saved_data["dim"].toInt();
  return dim == -1 || dim + 1 == static_cast<std::int64_t>(function.input_metadata(0).shape_as_dim_vector().size());
}

}  // namespace hessian_mpi::network
