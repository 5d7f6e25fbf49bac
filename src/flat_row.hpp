#pragma once
/// Derivatives by each parameter, as one row of numbers in the order of the index. Internal to the engines.

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/parameter_index.hpp"
#include "hessian_mpi/problem.hpp"

namespace hessian_mpi {

/// The elements of a tensor in row-major order, handed to sink as a pointer to numbers of the tensor's own type.
template <class Sink>
void with_elements(const at::Tensor& tensor, const Sink& sink) {
  const at::Tensor dense = (tensor.is_sparse() ? tensor.to_dense() : tensor).contiguous();
  if (dense.scalar_type() == at::kDouble) {
    sink(dense.const_data_ptr<double>(), dense.numel());
  } else {
    sink(dense.const_data_ptr<float>(), dense.numel());
  }
}

/// Puts a row's parts where the index has them, zeros where a part is undefined.
template <class Number>
void store(const std::vector<at::Tensor>& parts, const ParameterIndex& index, Number* row) {
  for (std::size_t p = 0; p < parts.size(); ++p) {
    Number* const target = row + index.entries()[p].offset;
    if (parts[p].defined()) {
      with_elements(parts[p], [&](const auto* elements, std::int64_t count) {
        std::transform(elements, elements + count, target, [](auto x) { return static_cast<Number>(x); });
      });
    } else {
      std::fill_n(target, index.entries()[p].size, Number{0});
    }
  }
}

/// Adds a row's parts where the index has them.
inline void add(const std::vector<at::Tensor>& parts, const ParameterIndex& index, double* row) {
  for (std::size_t p = 0; p < parts.size(); ++p) {
    if (!parts[p].defined()) continue;
    double* const target = row + index.entries()[p].offset;
    with_elements(parts[p], [&](const auto* elements, std::int64_t count) {
      for (std::int64_t k = 0; k < count; ++k) target[k] += static_cast<double>(elements[k]);
    });
  }
}

/// One element of a contiguous tensor, past autograd and the dispatcher: a cotangent has no history.
inline void set_element(const at::Tensor& tensor, std::int64_t element, double value) {
  if (tensor.scalar_type() == at::kDouble) {
    tensor.data_ptr<double>()[element] = value;
  } else {
    tensor.data_ptr<float>()[element] = static_cast<float>(value);
  }
}

/// With several batches, a call runs all of them forward and back once; this many rows pay for it.
inline std::int64_t rows_worth_a_call(std::int64_t batches) {
  constexpr std::int64_t rows_that_pay_for_batches = 64;
  return batches == 1 ? 1 : rows_that_pay_for_batches;
}

/// Rows, each the sum of what it is in every batch, in float64: [rows][N]. graph_of(b) makes what row_of(graph, i)
/// derives from; its result is used until the next call.
template <class GraphOf, class RowOf>
std::vector<double> summed_over_batches(const Rows& rows, const Problem& problem, const GraphOf& graph_of,
                                        const RowOf& row_of, const std::function<void(double)>& advance) {
  const auto n = problem.index().size();
  std::vector<double> sum(static_cast<std::size_t>(rows.count() * n), 0.0);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto& graph = graph_of(b);
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      add(row_of(graph, i), problem.index(), sum.data() + (i - rows.begin) * n);
      advance(1.0 / static_cast<double>(problem.batches()));
    }
  }
  return sum;
}

}  // namespace hessian_mpi
