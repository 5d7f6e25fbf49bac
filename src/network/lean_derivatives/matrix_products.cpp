#include "lean_derivatives/matrix_products.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdint>

#include "lean_derivatives/function.hpp"
#include "lean_derivatives/narrow_products.hpp"

namespace hessian_mpi::network {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

template <class Number>
Matrices<Number> matrices_of(const Tensor& x) {
  return {x.const_data_ptr<Number>(), x.stride(0), x.stride(1), x.stride(2)};
}

// Whether A B is made here and not by MKL.
bool is_narrow(const Tensor& a, const Tensor& b) {
  constexpr std::int64_t most_inner = 1024;
  const auto lies_here = [](const Tensor& x) {
    return x.dim() == 3 && x.numel() > 0 && x.device().is_cpu() && x.layout() == at::kStrided && !x.is_neg() &&
           !x._is_zerotensor();
  };
  if (!lies_here(a) || !lies_here(b) || a.scalar_type() != b.scalar_type()) return false;
  if (a.size(0) != b.size(0) || a.size(2) != b.size(1) || a.size(2) > most_inner) return false;
  if (a.scalar_type() == at::kFloat) return b.size(2) <= most_narrow_columns<float>;
  return a.scalar_type() == at::kDouble && b.size(2) <= most_narrow_columns<double>;
}

template <class Number>
void add_narrow(const Tensor& a, const Tensor& b, bool adds, const Tensor& c) {
  const auto of_a = matrices_of<Number>(a);
  const auto of_b = matrices_of<Number>(b);
  const auto numbers_of_matrix = c.size(1) * c.size(2);
  constexpr std::int64_t multiplications_worth_a_thread = 1 << 18;
  const auto at_least = 1 + multiplications_worth_a_thread / (numbers_of_matrix * a.size(2));
  at::parallel_for(0, c.size(0), at_least, [&](std::int64_t begin, std::int64_t end) {
    multiply_narrow({end - begin, c.size(1), a.size(2), c.size(2)},
                    {of_a.numbers + begin * of_a.of_matrix, of_a.of_matrix, of_a.of_row, of_a.of_column},
                    {of_b.numbers + begin * of_b.of_matrix, of_b.of_matrix, of_b.of_row, of_b.of_column}, adds,
                    c.mutable_data_ptr<Number>() + begin * numbers_of_matrix);
  });
}

}  // namespace

Tensor plain_product(const Tensor& a, const Tensor& b, const Tensor& c) {
  const Kernels kernels;
  if (!is_narrow(a, b)) return c.defined() ? c.baddbmm(a, b) : a.bmm(b);
  Tensor result = c.defined() ? c : a.new_empty({a.size(0), a.size(1), b.size(2)});
  if (a.scalar_type() == at::kFloat) {
    add_narrow<float>(a, b, c.defined(), result);
  } else {
    add_narrow<double>(a, b, c.defined(), result);
  }
  return result;
}

namespace {

// Of C = A B with cotangent G: G B^T and A^T G. Their derivatives are contiguous, where LibTorch adds up those that are
// transposed and those that are not.
struct ProductGradients : Function<ProductGradients> {
  static variable_list forward(AutogradContext* graph, const Tensor& g, const Tensor& a, const Tensor& b) {
    graph->set_materialize_grads(false);
    graph->save_for_backward({g, a, b});
    const Kernels kernels;
    return {plain_product(g, b.mH()), plain_product(a.mH(), g)};
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const Tensor &g = saved[0], &a = saved[1], &b = saved[2];
    const Tensor &of_a = cotangents[0], &of_b = cotangents[1];
    variable_list result(3);
    if (graph->needs_input_grad(0)) {
      if (of_a.defined()) result[0] = of_a.bmm(b);
      if (of_b.defined() && !result[0].defined()) {
        result[0] = a.bmm(of_b);
      } else if (of_b.defined()) {
        const bool derives = at::GradMode::is_enabled();
        result[0] = derives ? result[0].baddbmm(a, of_b) : plain_product(a, of_b, result[0].contiguous());
      }
    }
    if (of_b.defined() && graph->needs_input_grad(1)) result[1] = g.bmm(of_b.mH());
    if (of_a.defined() && graph->needs_input_grad(2)) result[2] = of_a.mH().bmm(g);
    return result;
  }
};

struct Product : Function<Product> {
  static Tensor forward(AutogradContext* graph, const Tensor& a, const Tensor& b) {
    graph->save_for_backward({a, b});
    return plain_product(a, b);
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const Tensor &g = cotangents[0], &a = saved[0], &b = saved[1];
    const bool by_a = graph->needs_input_grad(0), by_b = graph->needs_input_grad(1);
    if (by_a && by_b && at::GradMode::is_enabled()) return ProductGradients::apply(g, a, b);
    return {by_a ? g.bmm(b.mH()) : Tensor(), by_b ? a.mH().bmm(g) : Tensor()};
  }
};

}  // namespace

Tensor derived_product(const Tensor& a, const Tensor& b) {
  return Product::apply(a, b);
}

std::optional<std::pair<Tensor, Tensor>> factors_of(torch::autograd::Node& function) {
  auto* const product = dynamic_cast<torch::autograd::CppNode<Product>*>(&function);
  if (product == nullptr) return std::nullopt;
  const auto saved = product->ctx_.get_saved_variables();
  return std::pair(saved[0], saved[1]);
}

}  // namespace hessian_mpi::network
