#include "lean_derivatives/attention.hpp"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "lean_derivatives/attention_heads.hpp"
#include "lean_derivatives/function.hpp"
#include "lean_derivatives/matrix_products.hpp"
#include "lean_derivatives/softmax.hpp"

namespace hessian_mpi::network {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Edge;
using torch::autograd::Function;
using torch::autograd::Node;
using torch::autograd::variable_list;

// --- Derivatives -----------------------------------------------------------------------------------------------------

// What attention is derived at, for as many derivatives as are asked for.
struct Constants : torch::CustomClassHolder {
  Tensor p, ends, queries, keys, keys_in_columns, values, values_in_columns;
  double scale = 1;

  Constants(Tensor of_p, const Tensor& of_queries, const Tensor& of_keys, const Tensor& of_values, double by)
      : p(std::move(of_p)),
        ends(ends_of(p)),
        queries(with_room(of_queries)),
        keys(with_room(of_keys.mT())),
        keys_in_columns(with_room(of_keys)),
        values(with_room(of_values)),
        values_in_columns(with_room(of_values.mT())),
        scale(by) {}

  static Tensor with_room(const Tensor& x) {
    const Tensor room = at::empty({x.numel() + bytes_behind_heads / x.element_size()}, x.options());
    return room.narrow(0, 0, x.numel()).view(x.sizes()).copy_(x.detach());
  }

  template <class Number>
  Heads<Number> heads() const {
    return {{p.size(1), p.size(2), queries.size(2), values.size(2)},
            static_cast<Number>(scale),
            p.const_data_ptr<Number>(),
            ends.const_data_ptr<std::int64_t>(),
            queries.const_data_ptr<Number>(),
            keys.const_data_ptr<Number>(),
            keys_in_columns.const_data_ptr<Number>(),
            values.const_data_ptr<Number>(),
            values_in_columns.const_data_ptr<Number>()};
  }

 private:
  // Where p is 0 for all of some queries from a key on.
  static Tensor ends_of(const Tensor& p) {
    const auto queries = p.size(1), together = (queries + queries_together - 1) / queries_together;
    Tensor ends = at::zeros({p.size(0), together}, at::kLong);
    const Tensor after = (at::arange(p.size(2)) + 1).mul(p.ne(0)).amax(2);  // [heads, queries]
    for (std::int64_t k = 0; k < together; ++k) {
      const auto first = k * queries_together;
      ends.select(1, k).copy_(after.narrow(1, first, std::min(queries_together, queries - first)).amax(1));
    }
    return ends;
  }
};

using ConstantsOfGraph = c10::intrusive_ptr<Constants>;

void keep(const ConstantsOfGraph& at, AutogradContext* graph) {
  graph->saved_data["at"] = c10::IValue::make_capsule(at);
}

ConstantsOfGraph kept(AutogradContext* graph) {
  return c10::static_intrusive_pointer_cast<Constants>(graph->saved_data["at"].toCapsule());
}

// Of each of queries, keys [heads, keys, width] and values.
struct Parts {
  Tensor queries, keys, values;

  static Parts like(const Constants& at) {
    return {at::empty(at.queries.sizes(), at.p.options()), at::empty(at.keys.sizes(), at.p.options()),
            at::empty(at.values.sizes(), at.p.options())};
  }
  template <class Number>
  OfHeads<const Number> to_read() const {
    return {queries.const_data_ptr<Number>(), keys.const_data_ptr<Number>(), values.const_data_ptr<Number>()};
  }
  template <class Number>
  OfHeads<Number> to_write() const {
    return {queries.mutable_data_ptr<Number>(), keys.mutable_data_ptr<Number>(), values.mutable_data_ptr<Number>()};
  }
};

template <class Work>
void for_heads(const Constants& at, const Work& work) {
  at::parallel_for(0, at.p.size(0), 1, [&](std::int64_t begin, std::int64_t end) { work(SomeHeads{begin, end}); });
}

// For what counts the operators of a pass.
std::vector<c10::IValue> noted(const Constants& at) {
  return {at.p, at.queries, at.values};
}

Parts gradients(const Constants& at, const Tensor& g) {
  auto found = Parts::like(at);
  RECORD_FUNCTION("hessian_mpi::attention", noted(at));
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "attention", [&] {
    for_heads(at, [&](const SomeHeads& heads) {
      differentiate_attention(at.heads<scalar_t>(), heads, g.const_data_ptr<scalar_t>(), found.to_write<scalar_t>());
    });
  });
  return found;
}

// The gradients of queries, keys and values, g being that of the output.
struct AttentionGradient : Function<AttentionGradient> {
  static variable_list forward(AutogradContext* graph, const Tensor& g, const Tensor& queries, const Tensor& keys,
                               const Tensor& values, const ConstantsOfGraph& at) {
    const Kernels kernels;
    const Tensor by_p = plain_product(g, values.mH());
    graph->save_for_backward({g, queries, keys, values});
    graph->saved_data["centred"] = by_p - row_sum(at->p * by_p, 2);
    const Tensor near = Constants::with_room(g);
    graph->saved_data["g"] = near;
    keep(at, graph);
    const auto found = gradients(*at, near);
    return {found.queries, found.keys.mT(), found.values};
  }

  static variable_list backward(AutogradContext* graph, const variable_list& h) {
    const auto at = kept(graph);
    const Parts along{h[0].contiguous(), h[1].mT().contiguous(), h[2].contiguous()};
    if (at::GradMode::is_enabled() || !are_plain({at->p, along.queries, along.keys, along.values})) {
      return derivable(graph->get_saved_variables(), h, at->p, at->scale);
    }
    const Tensor g = graph->saved_data["g"].toTensor(), centred = graph->saved_data["centred"].toTensor();
    Tensor by_g = at::empty(g.sizes(), g.options());
    const auto found = Parts::like(*at);
    RECORD_FUNCTION("hessian_mpi::attention_gradient", noted(*at));
    AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "attention", [&] {
      const HeadGradients<scalar_t> at_g{g.const_data_ptr<scalar_t>(), centred.const_data_ptr<scalar_t>()};
      for_heads(*at, [&](const SomeHeads& heads) {
        differentiate_attention_gradient(at->heads<scalar_t>(), at_g, heads, along.to_read<scalar_t>(),
                                         by_g.mutable_data_ptr<scalar_t>(), found.to_write<scalar_t>());
      });
    });
    return {by_g, found.queries, found.keys.mT(), found.values, {}};
  }

 private:
  // The same by operators that can be derived; what has been added to the scores, and masks, are seen in p.
  static variable_list derivable(const variable_list& saved, const variable_list& h, const Tensor& p, double scale) {
    const bool derives = at::GradMode::is_enabled();
    const at::AutoGradMode on(true);
    variable_list free;
    // Views, since what g is made of may depend on the others.
    for (const auto& x : saved) {
      free.push_back(derives && x.requires_grad() ? x.view_as(x) : x.detach().requires_grad_());
    }
    const Tensor &g = free[0], &queries = free[1], &keys = free[2], &values = free[3];
    const Tensor products = scale * queries.bmm(keys);
    const Tensor y = at::_safe_softmax(products + (p.log() - products.detach()), 2);
    const Tensor by_y = g.bmm(values.mH());
    const Tensor by_scores = y * (by_y - row_sum(y * by_y, 2)) * scale;
    const auto found = torch::autograd::grad({by_scores.bmm(keys.mH()), queries.mH().bmm(by_scores), y.mH().bmm(g)},
                                             free, h, /*retain_graph=*/true, derives);
    return {found[0], found[1], found[2], found[3], {}};
  }
};

struct Attention : Function<Attention> {
  static Tensor forward(AutogradContext* graph, const Tensor& queries, const Tensor& keys, const Tensor& values,
                        const ConstantsOfGraph& at) {
    // p for LibTorch to see whether it is changed in place.
    graph->save_for_backward({queries, keys, values, at->p});
    keep(at, graph);
    return plain_product(at->p, values);
  }

  static variable_list backward(AutogradContext* graph, const variable_list& cotangents) {
    const auto saved = graph->get_saved_variables();
    const auto at = kept(graph);
    const Tensor g = cotangents[0].contiguous();
    if (!at::GradMode::is_enabled() && are_plain({at->p, g})) {
      const auto found = gradients(*at, g);
      return {found.queries, found.keys.mT(), found.values, {}};
    }
    const auto found = AttentionGradient::apply(g, saved[0], saved[1], saved[2], at);
    return {found[0], found[1], found[2], {}};
  }
};

// --- What p is made of -----------------------------------------------------------------------------------------------

bool begins_with_one_of(std::string_view name, std::initializer_list<std::string_view> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(), [&](auto some) { return name.starts_with(some); });
}

// Functions whose results have the numbers that they are given, in their order.
bool keeps_numbers(std::string_view name) {
  return begins_with_one_of(name, {"ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "ExpandBackward",
                                   "CloneBackward", "UnsqueezeBackward", "SqueezeBackward", "AliasBackward"});
}

// Functions that multiply each number by one that does not depend on it, and add one, if they derive but one argument.
bool is_affine(std::string_view name, const Node& function) {
  if (begins_with_one_of(name, {"DivBackward"})) return function.next_edge(0).is_valid();
  return begins_with_one_of(name, {"MulBackward", "AddBackward", "SubBackward", "NegBackward", "MaskedFillBackward",
                                   "WhereBackward"}) ||
         name.ends_with("::MaskedFill>");
}

std::vector<std::int64_t> sizes_of(const Node& function) {
  const auto sizes = c10::asIntArrayRefSlowOpt(function.input_metadata(0).shape_as_dim_vector());
  return sizes ? sizes->vec() : std::vector<std::int64_t>();
}

// The only edge along which a function hands on a gradient of so many numbers; invalid where it has none, or several.
Edge only_edge(const Node& function, std::int64_t numbers) {
  const auto& edges = function.next_edges();
  const auto is_valid = [](const Edge& edge) { return edge.is_valid(); };
  if (std::count_if(edges.begin(), edges.end(), is_valid) != 1) return {};
  const auto& edge = *std::find_if(edges.begin(), edges.end(), is_valid);
  return c10::multiply_integers(sizes_of(*edge.function)) == numbers ? edge : Edge();
}

// The end of a way from an edge through functions of a kind; invalid where it does not go on.
template <class IsOfKind, class IsEnd>
Edge end_of_way(Edge edge, std::int64_t numbers, IsOfKind is_of_kind, IsEnd is_end) {
  while (edge.is_valid() && !is_end(*edge.function)) {
    edge = is_of_kind(*edge.function) ? only_edge(*edge.function, numbers) : Edge();
  }
  return edge;
}

struct Scores {
  Tensor queries, keys;
  double scale;
};

// The one slope of affine functions from one edge to another, wherever p is not 0.
std::optional<double> slope_between(const Edge& from, const Edge& to, const Tensor& p) {
  if (from == to) return 1;
  const Tensor ones = at::ones(sizes_of(*from.function), p.options());
  const Tensor slopes = torch::autograd::Engine::get_default_engine()
                            .execute({from}, {ones}, /*keep_graph=*/true, /*create_graph=*/false,
                                     /*accumulate_grad=*/false, {to})[0]
                            .reshape(p.sizes());
  const auto slope = slopes.flatten()[p.argmax()].item<double>();
  if (!std::isfinite(slope) || !slopes.eq(slope).logical_or_(p.eq(0)).all().item<bool>()) return std::nullopt;
  return slope;
}

std::optional<Scores> scores_of(const Tensor& p) {
  const auto numbers = p.numel();
  const Edge softmax = end_of_way(
      torch::autograd::impl::gradient_edge(p), numbers, [](const Node& f) { return keeps_numbers(f.name()); },
      [](Node& f) { return is_softmax_of_rows(f); });
  if (!softmax.is_valid() || sizes_of(*softmax.function).back() != p.size(2)) return std::nullopt;
  const Edge scores = only_edge(*softmax.function, numbers);
  const Edge product = end_of_way(
      scores, numbers, [](const Node& f) { return keeps_numbers(f.name()) || is_affine(f.name(), f); },
      [](Node& f) { return factors_of(f).has_value(); });
  if (!product.is_valid()) return std::nullopt;
  const auto [queries, keys] = *factors_of(*product.function);
  if (queries.size(1) != p.size(1) || keys.size(2) != p.size(2) || !queries.requires_grad() || !keys.requires_grad()) {
    return std::nullopt;
  }
  const auto slope = slope_between(scores, product, p.detach());
  return slope ? std::optional(Scores{queries, keys, *slope}) : std::nullopt;
}

}  // namespace

std::optional<Tensor> attention(const Tensor& p, const Tensor& values) {
  const bool may_be = p.dim() == 3 && p.numel() > 0 && p.grad_fn() && values.requires_grad() && are_plain({p.detach()});
  if (!may_be || values.dim() != 3 || values.size(0) != p.size(0) || values.size(1) != p.size(2)) return std::nullopt;
  if (values.scalar_type() != p.scalar_type() || !values.device().is_cpu() || values.numel() == 0) return std::nullopt;
  const auto scores = scores_of(p);
  if (!scores) return std::nullopt;
  const auto& [queries, keys, scale] = *scores;
  return Attention::apply(queries, keys, values,
                          c10::make_intrusive<Constants>(p.detach(), queries, keys, values, scale));
}

}  // namespace hessian_mpi::network
