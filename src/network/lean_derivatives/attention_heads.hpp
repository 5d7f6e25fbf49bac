#pragma once
/// The second derivative of attention, one head after the other and some queries at a time, so that what is made for
/// each pair of a query and a key stays in the processor's nearest memory. Internal to the lean derivatives.

#include <cstdint>

namespace hessian_mpi::network {

/// Sizes of a head.
struct HeadShape {
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t width;   ///< of a query and a key
  std::int64_t values;  ///< numbers of a value
};

/// Queries whose p is 0 from some key on that are told so together.
constexpr std::int64_t queries_together = 16;

/// Bytes behind their numbers that are read too, of no matter what.
constexpr std::int64_t bytes_behind_heads = 64;

/// What attention p values, p = softmax(scale queries keys^T), is derived at; matrices of one head after the other, in
/// one run each, and bytes_behind_heads.
template <class Number>
struct Heads {
  HeadShape shape;
  Number scale;
  const Number* p;                  ///< [heads, queries, keys]
  const std::int64_t* ends;         ///< [heads, ceil(queries / queries_together)]: p is 0 from these keys on
  const Number* queries;            ///< [heads, queries, width]
  const Number* keys;               ///< [heads, keys, width]
  const Number* keys_in_columns;    ///< the same as [heads, width, keys]
  const Number* values;             ///< [heads, keys, values]
  const Number* values_in_columns;  ///< the same as [heads, values, keys]
};

/// The gradient by the output, [heads, queries, values], and by p, [heads, queries, keys], less its mean over each row
/// of p.
template <class Number>
struct HeadGradients {
  const Number* by_output;
  const Number* by_p;
};

/// Numbers for each of queries, keys and values, in their shapes: nothing is read behind them.
template <class Number>
struct OfHeads {
  Number* queries;
  Number* keys;
  Number* values;
};

/// Heads from one on to before another.
struct SomeHeads {
  std::int64_t begin;
  std::int64_t end;
};

/// The gradients of some heads by queries, keys and values, of that by the output, G. With E = G values^T,
/// sums over each row of p written < > and Z = scale p (E - <E>) they are Z keys, Z^T queries and p^T G.
void differentiate_attention(const Heads<float>& of, const SomeHeads& heads, const float* gradient,
                             const OfHeads<float>& found);
void differentiate_attention(const Heads<double>& of, const SomeHeads& heads, const double* gradient,
                             const OfHeads<double>& found);

/// Of these gradients the derivatives along `along` by G = gradients.by_output, into by_gradient, and by queries, keys
/// and values. With D = gradients.by_p and Z = scale p D:
///   M = scale (along.queries keys^T + queries along.keys^T)      A = p (M - <M>)
///   W = D (M - <M>) + G along.values^T                           B = scale p (W - <W>)
///   by G       A values + p along.values
///   by queries Z along.keys + B keys
///   by keys    Z^T along.queries + B^T queries
///   by values  A^T G
void differentiate_attention_gradient(const Heads<float>& of, const HeadGradients<float>& gradients,
                                      const SomeHeads& heads, const OfHeads<const float>& along, float* by_gradient,
                                      const OfHeads<float>& found);
void differentiate_attention_gradient(const Heads<double>& of, const HeadGradients<double>& gradients,
                                      const SomeHeads& heads, const OfHeads<const double>& along, double* by_gradient,
                                      const OfHeads<double>& found);

}  // namespace hessian_mpi::network
