#include "lean_derivatives/attention_heads.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "hessian_mpi/base/processors.hpp"
#include "lean_derivatives/small_tiles.hpp"

namespace hessian_mpi::network {
namespace {

// C = A B, or C += A B. Rows of B and C, which are of_b and of_c apart, are whole vectors.
template <class Number>
struct Block {
  std::int64_t rows, inner, columns;
  const Number* a;
  std::int64_t of_row, of_column;
  const Number* b;
  std::int64_t of_b;
  bool adds;
  Number* c;
  std::int64_t of_c;
};

template <int bytes, int rows, int pieces, class Number>
HESSIAN_MPI_INLINE void multiply_from(std::int64_t row, const Block<Number>& block, std::int64_t column) {
  using Vector = typename VectorOf<bytes, Number>::Type;
  using InMemory = typename VectorOf<bytes, Number>::InMemory;
  constexpr int lanes = bytes / static_cast<int>(sizeof(Number));
  for (; row + rows <= block.rows; row += rows) {
    Number* const c = block.c + row * block.of_c + column;
    Vector sums[rows][pieces] = {};
    for (int i = 0; block.adds && i < rows; ++i) {
      for (int v = 0; v < pieces; ++v) sums[i][v] = *reinterpret_cast<InMemory*>(c + i * block.of_c + v * lanes);
    }
    add_products<bytes, rows, pieces>(block.inner, block.a + row * block.of_row, block.of_row, block.of_column,
                                      block.b + column, block.of_b, sums);
    for (int i = 0; i < rows; ++i) {
      for (int v = 0; v < pieces; ++v) *reinterpret_cast<InMemory*>(c + i * block.of_c + v * lanes) = sums[i][v];
    }
  }
  if constexpr (rows > 1) multiply_from<bytes, rows / 2, pieces>(row, block, column);
}

// Sums of as many rows and columns as there are registers for.
template <int bytes, class Number>
HESSIAN_MPI_INLINE void multiply_block(const Block<Number>& block) {
  constexpr std::int64_t lanes = bytes / static_cast<std::int64_t>(sizeof(Number));
  constexpr int rows = bytes == 64 ? 8 : 4;
  std::int64_t column = 0;
  for (; column + lanes < block.columns; column += 2 * lanes) multiply_from<bytes, rows, 2>(0, block, column);
  if (column < block.columns) multiply_from<bytes, 8, 1>(0, block, column);
}

// What a head is multiplied with: rows of whole vectors, anything behind their numbers.
template <class Number>
struct Near {
  std::int64_t columns, width, values;              // numbers from one row to the next
  std::vector<Number> keys_in_columns;              // of along: [width, columns]
  std::vector<Number> values_in_columns;            // of along: [values, columns]
  std::vector<Number> queries, keys, values_along;  // of along: [queries_together, width], [keys, width], ...
  std::vector<Number> by_keys, by_values, by_queries;
  std::vector<Number> outputs;  // of some queries, the gradient or what is by it: [queries_together, values]
  std::vector<Number> a, b, z;  // [queries_together, columns]

  Near(const HeadShape& shape, std::int64_t lanes)
      : columns(whole(shape.keys, lanes)), width(whole(shape.width, lanes)), values(whole(shape.values, lanes)) {
    const auto set = [](std::vector<Number>& of, std::int64_t rows, std::int64_t size) {
      of.resize(static_cast<std::size_t>(rows * size));
    };
    set(keys_in_columns, shape.width, columns), set(values_in_columns, shape.values, columns);
    set(queries, queries_together, width), set(keys, shape.keys, width), set(values_along, shape.keys, values);
    set(by_keys, shape.keys, width), set(by_values, shape.keys, values);
    set(by_queries, queries_together, width), set(outputs, queries_together, values);
    for (auto* const of : {&a, &b, &z}) set(*of, queries_together, columns);
  }

 private:
  static std::int64_t whole(std::int64_t size, std::int64_t lanes) { return (size + lanes - 1) / lanes * lanes; }
};

// Rows to others, as whole vectors: what comes behind a row of them is the next row's. The last ones end where they
// end.
template <int bytes, class Number>
HESSIAN_MPI_INLINE void copy_rows(const Number* from, std::int64_t of_from, std::int64_t rows, std::int64_t size,
                                  Number* to, std::int64_t of_to) {
  using InMemory = typename VectorOf<bytes, Number>::InMemory;
  constexpr std::int64_t lanes = bytes / static_cast<std::int64_t>(sizeof(Number));
  const auto written = (size + lanes - 1) / lanes * lanes;
  const auto apart = std::min(of_from, of_to);
  const auto whole = rows + 1 - (written + apart - 1) / apart;
  std::int64_t i = 0;
  for (; i < whole; ++i, from += of_from, to += of_to) {
    for (std::int64_t j = 0; j < size; j += lanes) {
      *reinterpret_cast<InMemory*>(to + j) = *reinterpret_cast<const InMemory*>(from + j);
    }
  }
  for (; i < rows; ++i, from += of_from, to += of_to) std::copy_n(from, size, to);
}

template <class Number>
HESSIAN_MPI_INLINE void transpose_rows(const Number* from, std::int64_t rows, std::int64_t size, Number* to,
                                       std::int64_t of_to) {
  for (std::int64_t j = 0; j < size; ++j) {
    for (std::int64_t i = 0; i < rows; ++i) to[j * of_to + i] = from[i * size + j];
  }
}

// In as many sums as a vector has numbers, which the compiler by itself would add up one by one.
template <int bytes, class Number>
HESSIAN_MPI_INLINE Number sum_of_products(std::int64_t count, const Number* x, const Number* y) {
  constexpr std::int64_t lanes = bytes / static_cast<std::int64_t>(sizeof(Number));
  Number sums[lanes] = {};
  std::int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
#pragma omp simd
    for (std::int64_t i = 0; i < lanes; ++i) sums[i] += x[k + i] * y[k + i];
  }
  for (std::int64_t i = 0; k + i < count; ++i) sums[i] += x[k + i] * y[k + i];
  for (auto width = lanes / 2; width > 0; width /= 2) {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) sums[i] += sums[i + width];
  }
  return sums[0];
}

// Of a query, A in the place of M / scale, B in that of G along.values^T, and Z.
template <int bytes, class Number>
HESSIAN_MPI_INLINE void derive_row(const Number* p, const Number* d, Number scale, std::int64_t keys, Number* a,
                                   Number* b, Number* z) {
  const Number mean = sum_of_products<bytes, Number>(keys, p, a);
#pragma omp simd
  for (std::int64_t k = 0; k < keys; ++k) {
    const Number m = scale * (a[k] - mean);
    b[k] += d[k] * m;
    a[k] = p[k] * m;
  }
  const Number of_b = sum_of_products<bytes, Number>(keys, p, b);
#pragma omp simd
  for (std::int64_t k = 0; k < keys; ++k) {
    const Number scaled = scale * p[k];
    b[k] = scaled * (b[k] - of_b);
    z[k] = scaled * d[k];
  }
}

template <class Number>
HESSIAN_MPI_INLINE Heads<Number> head_of(const Heads<Number>& of, std::int64_t head) {
  const auto& shape = of.shape;
  const auto of_keys = head * shape.keys * shape.width;
  const auto of_values = head * shape.keys * shape.values;
  return {shape,
          of.scale,
          of.p + head * shape.queries * shape.keys,
          of.ends + head * ((shape.queries + queries_together - 1) / queries_together),
          of.queries + head * shape.queries * shape.width,
          of.keys + of_keys,
          of.keys_in_columns + of_keys,
          of.values + of_values,
          of.values_in_columns + of_values};
}

template <class Number>
HESSIAN_MPI_INLINE OfHeads<Number> head_of(const OfHeads<Number>& of, const HeadShape& shape, std::int64_t head) {
  return {of.queries + head * shape.queries * shape.width, of.keys + head * shape.keys * shape.width,
          of.values + head * shape.keys * shape.values};
}

// The first derivatives of some queries of a head, and what they add to keys and values.
template <int bytes, class Number, class Multiply>
HESSIAN_MPI_INLINE void gradients_of_queries(const Heads<Number>& of, std::int64_t first, const Number* gradient,
                                             Number* by_queries, Near<Number>& near, Multiply multiply) {
  const auto& shape = of.shape;
  const auto width = shape.width, values = shape.values, columns = near.columns;
  const auto queries = std::min(queries_together, shape.queries - first);
  const auto keys = of.ends[first / queries_together];
  const Number *const p = of.p + first * shape.keys, *const q = of.queries + first * width;
  const Number* const g = gradient + first * values;
  Number *const z = near.z.data(), *const to_queries = near.by_queries.data();
  copy_rows<bytes>(g, values, queries, values, near.outputs.data(), near.values);
  multiply({queries, values, keys, g, values, 1, of.values_in_columns, shape.keys, false, z, columns});
  for (std::int64_t i = 0; i < queries; ++i) {
    const Number* const of_query = p + i * shape.keys;
    Number* const row = z + i * columns;
    const Number mean = sum_of_products<bytes, Number>(keys, of_query, row);
#pragma omp simd
    for (std::int64_t k = 0; k < keys; ++k) row[k] = of.scale * of_query[k] * (row[k] - mean);
  }
  multiply({queries, keys, width, z, columns, 1, of.keys, width, false, to_queries, near.width});
  multiply({keys, queries, width, z, 1, columns, q, width, true, near.by_keys.data(), near.width});
  multiply({keys, queries, values, p, 1, shape.keys, near.outputs.data(), near.values, true, near.by_values.data(),
            near.values});
  copy_rows<bytes>(to_queries, near.width, queries, width, by_queries + first * width, width);
}

// The second ones.
template <int bytes, class Number, class Multiply>
HESSIAN_MPI_INLINE void derivatives_of_queries(const Heads<Number>& of, const HeadGradients<Number>& gradients,
                                               std::int64_t first, const OfHeads<const Number>& along,
                                               Number* by_gradient, Number* by_queries, Near<Number>& near,
                                               Multiply multiply) {
  const auto& shape = of.shape;
  const auto width = shape.width, values = shape.values, columns = near.columns;
  const auto queries = std::min(queries_together, shape.queries - first);
  const auto keys = of.ends[first / queries_together];
  const Number *const p = of.p + first * shape.keys, *const d = gradients.by_p + first * shape.keys;
  const Number *const q = of.queries + first * width, *const g = gradients.by_output + first * values;
  Number *const a = near.a.data(), *const b = near.b.data(), *const z = near.z.data();
  copy_rows<bytes>(along.queries + first * width, width, queries, width, near.queries.data(), near.width);
  multiply(
      {queries, width, keys, near.queries.data(), near.width, 1, of.keys_in_columns, shape.keys, false, a, columns});
  multiply({queries, width, keys, q, width, 1, near.keys_in_columns.data(), columns, true, a, columns});
  multiply({queries, values, keys, g, values, 1, near.values_in_columns.data(), columns, false, b, columns});
  for (std::int64_t i = 0; i < queries; ++i) {
    derive_row<bytes>(p + i * shape.keys, d + i * shape.keys, of.scale, keys, a + i * columns, b + i * columns,
                      z + i * columns);
  }
  Number *const to_outputs = near.outputs.data(), *const to_queries = near.by_queries.data();
  multiply({queries, keys, values, a, columns, 1, of.values, values, false, to_outputs, near.values});
  multiply(
      {queries, keys, values, p, shape.keys, 1, near.values_along.data(), near.values, true, to_outputs, near.values});
  multiply({queries, keys, width, z, columns, 1, near.keys.data(), near.width, false, to_queries, near.width});
  multiply({queries, keys, width, b, columns, 1, of.keys, width, true, to_queries, near.width});
  multiply({keys, queries, values, a, 1, columns, g, values, true, near.by_values.data(), near.values});
  multiply(
      {keys, queries, width, z, 1, columns, near.queries.data(), near.width, true, near.by_keys.data(), near.width});
  multiply({keys, queries, width, b, 1, columns, q, width, true, near.by_keys.data(), near.width});
  copy_rows<bytes>(to_outputs, near.values, queries, values, by_gradient + first * values, values);
  copy_rows<bytes>(to_queries, near.width, queries, width, by_queries + first * width, width);
}

template <class Number>
HESSIAN_MPI_INLINE void clear_sums(Near<Number>& near) {
  std::fill(near.by_keys.begin(), near.by_keys.end(), Number{0});
  std::fill(near.by_values.begin(), near.by_values.end(), Number{0});
}

template <int bytes, class Number>
HESSIAN_MPI_INLINE void take_sums(const HeadShape& shape, const Near<Number>& near, const OfHeads<Number>& found) {
  copy_rows<bytes>(near.by_keys.data(), near.width, shape.keys, shape.width, found.keys, shape.width);
  copy_rows<bytes>(near.by_values.data(), near.values, shape.keys, shape.values, found.values, shape.values);
}

template <int bytes, class Number, class Multiply>
HESSIAN_MPI_INLINE void gradients_of_heads(const Heads<Number>& all, const SomeHeads& heads, const Number* gradient,
                                           const OfHeads<Number>& found_all, Multiply multiply) {
  const auto& shape = all.shape;
  Near<Number> near(shape, bytes / static_cast<std::int64_t>(sizeof(Number)));
  for (auto head = heads.begin; head < heads.end; ++head) {
    const auto of = head_of(all, head);
    const auto found = head_of(found_all, shape, head);
    clear_sums(near);
    for (std::int64_t first = 0; first < shape.queries; first += queries_together) {
      gradients_of_queries<bytes>(of, first, gradient + head * shape.queries * shape.values, found.queries, near,
                                  multiply);
    }
    take_sums<bytes>(shape, near, found);
  }
}

template <int bytes, class Number, class Multiply>
HESSIAN_MPI_INLINE void derivatives_of_heads(const Heads<Number>& all, const HeadGradients<Number>& gradients,
                                             const SomeHeads& heads, const OfHeads<const Number>& along_all,
                                             Number* by_gradient, const OfHeads<Number>& found_all, Multiply multiply) {
  const auto& shape = all.shape;
  Near<Number> near(shape, bytes / static_cast<std::int64_t>(sizeof(Number)));
  for (auto head = heads.begin; head < heads.end; ++head) {
    const auto of = head_of(all, head);
    const auto along = head_of(along_all, shape, head);
    const auto found = head_of(found_all, shape, head);
    const auto outputs = head * shape.queries * shape.values;
    const HeadGradients<Number> of_head{gradients.by_output + outputs,
                                        gradients.by_p + head * shape.queries * shape.keys};
    copy_rows<bytes>(along.keys, shape.width, shape.keys, shape.width, near.keys.data(), near.width);
    copy_rows<bytes>(along.values, shape.values, shape.keys, shape.values, near.values_along.data(), near.values);
    transpose_rows(along.keys, shape.keys, shape.width, near.keys_in_columns.data(), near.columns);
    transpose_rows(along.values, shape.keys, shape.values, near.values_in_columns.data(), near.columns);
    clear_sums(near);
    for (std::int64_t first = 0; first < shape.queries; first += queries_together) {
      derivatives_of_queries<bytes>(of, of_head, first, along, by_gradient + outputs, found.queries, near, multiply);
    }
    take_sums<bytes>(shape, near, found);
  }
}

template <Processor kind>
struct Functions;

// NOLINTBEGIN(bugprone-macro-parentheses): attributes and names
#define HESSIAN_MPI_HEADS_FOR(kind, bytes, target)                                                                  \
  template <>                                                                                                       \
  struct Functions<Processor::kind> {                                                                               \
    template <class Number>                                                                                         \
    target static void multiply(const Block<Number>& block) {                                                       \
      multiply_block<bytes>(block);                                                                                 \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void gradients(const Heads<Number>& of, const SomeHeads& heads, const Number* gradient,           \
                                 const OfHeads<Number>& found) {                                                    \
      gradients_of_heads<bytes>(of, heads, gradient, found, &multiply<Number>);                                     \
    }                                                                                                               \
    template <class Number>                                                                                         \
    target static void derivatives(const Heads<Number>& of, const HeadGradients<Number>& gradients,                 \
                                   const SomeHeads& heads, const OfHeads<const Number>& along, Number* by_gradient, \
                                   const OfHeads<Number>& found) {                                                  \
      derivatives_of_heads<bytes>(of, gradients, heads, along, by_gradient, found, &multiply<Number>);              \
    }                                                                                                               \
  }
HESSIAN_MPI_FOR_EACH_PROCESSOR(HESSIAN_MPI_HEADS_FOR);
#undef HESSIAN_MPI_HEADS_FOR
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace

void differentiate_attention(const Heads<float>& of, const SomeHeads& heads, const float* gradient,
                             const OfHeads<float>& found) {
  for_this_processor<Functions>([&](auto own) { own.gradients(of, heads, gradient, found); });
}

void differentiate_attention(const Heads<double>& of, const SomeHeads& heads, const double* gradient,
                             const OfHeads<double>& found) {
  for_this_processor<Functions>([&](auto own) { own.gradients(of, heads, gradient, found); });
}

void differentiate_attention_gradient(const Heads<float>& of, const HeadGradients<float>& gradients,
                                      const SomeHeads& heads, const OfHeads<const float>& along, float* by_gradient,
                                      const OfHeads<float>& found) {
  for_this_processor<Functions>([&](auto own) { own.derivatives(of, gradients, heads, along, by_gradient, found); });
}

void differentiate_attention_gradient(const Heads<double>& of, const HeadGradients<double>& gradients,
                                      const SomeHeads& heads, const OfHeads<const double>& along, double* by_gradient,
                                      const OfHeads<double>& found) {
  for_this_processor<Functions>([&](auto own) { own.derivatives(of, gradients, heads, along, by_gradient, found); });
}

}  // namespace hessian_mpi::network
