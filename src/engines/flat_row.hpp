#pragma once
/// Derivatives by each parameter, as one row of numbers in the order of the index. Internal to the engines.

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "rows_from_device.hpp"

namespace hessian_mpi::engines {

inline at::Tensor dense(const at::Tensor& tensor) {
  return tensor.is_sparse() ? tensor.to_dense() : tensor;
}

/// The elements of a tensor in row-major order, handed to sink as a pointer to numbers of the tensor's own type.
template <class Sink>
void with_elements(const at::Tensor& tensor, const Sink& sink) {
  const at::Tensor all = dense(tensor);
  const at::Tensor numbers = (all.is_cpu() ? all : all.cpu()).contiguous();
  if (numbers.scalar_type() == at::kDouble) {
    sink(numbers.const_data_ptr<double>(), numbers.numel());
  } else {
    sink(numbers.const_data_ptr<float>(), numbers.numel());
  }
}

/// Some columns of the matrix, as the parameters that they belong to.
class ColumnsOfParameters {
 public:
  /// The problem must outlive the object.
  ColumnsOfParameters(const network::Problem& problem, const Rows& columns) : problem_(problem), columns_(columns) {
    const auto& entries = problem.index().entries();
    while (begin_ < entries.size() && end_of(begin_) <= columns.begin) ++begin_;
    end_ = begin_;
    while (end_ < entries.size() && entries[end_].offset < columns.end) ++end_;
  }

  /// What a derivative is taken by.
  std::vector<at::Tensor> parameters() const {
    const auto begin = problem_.parameters().begin();
    return {begin + static_cast<std::ptrdiff_t>(begin_), begin + static_cast<std::ptrdiff_t>(end_)};
  }
  std::int64_t count() const { return columns_.count(); }

  /// Puts derivatives by parameters() where a row has them, zeros where one is undefined.
  template <class Number>
  void store(const std::vector<at::Tensor>& parts, Number* row) const {
    each(parts, row, [](const at::Tensor& part, const Rows& elements, Number* to) {
      if (!part.defined()) {
        std::fill_n(to, elements.count(), Number{0});
        return;
      }
      with_elements(part, [&](const auto* all, std::int64_t) {
        std::transform(all + elements.begin, all + elements.end, to, [](auto x) { return static_cast<Number>(x); });
      });
    });
  }

  /// The row as one tensor, where the parameters are.
  at::Tensor joined(const std::vector<at::Tensor>& parts) const {
    std::vector<at::Tensor> pieces;
    for (auto p = begin_; p < end_; ++p) {
      const auto elements = elements_of(p);
      const auto& part = parts[p - begin_];
      const auto& parameter = problem_.parameters()[p];
      pieces.push_back(part.defined() ? dense(part).reshape(-1).slice(0, elements.begin, elements.end)
                                      : at::zeros({elements.count()}, parameter.options().requires_grad(false)));
    }
    return at::cat(pieces);
  }

  /// Adds them to what the row has.
  void add(const std::vector<at::Tensor>& parts, double* row) const {
    each(parts, row, [](const at::Tensor& part, const Rows& elements, double* to) {
      if (!part.defined()) return;
      with_elements(part, [&](const auto* all, std::int64_t) {
        for (auto k = elements.begin; k < elements.end; ++k) to[k - elements.begin] += static_cast<double>(all[k]);
      });
    });
  }

 private:
  std::int64_t end_of(std::size_t p) const {
    const auto& entry = problem_.index().entries()[p];
    return entry.offset + entry.size;
  }
  // The elements of a parameter among the columns.
  Rows elements_of(std::size_t p) const {
    const auto offset = problem_.index().entries()[p].offset;
    return {std::max(offset, columns_.begin) - offset, std::min(end_of(p), columns_.end) - offset};
  }
  // Calls visit(part, its elements among the columns, their place in the row).
  template <class Number, class Visit>
  void each(const std::vector<at::Tensor>& parts, Number* row, const Visit& visit) const {
    for (auto p = begin_; p < end_; ++p) {
      const auto elements = elements_of(p);
      if (elements.count() <= 0) continue;
      visit(parts[p - begin_], elements,
            row + (problem_.index().entries()[p].offset + elements.begin - columns_.begin));
    }
  }

  const network::Problem& problem_;
  Rows columns_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

inline ColumnsOfParameters all_columns(const network::Problem& problem) {
  return {problem, {0, problem.index().size()}};
}

/// One element of a contiguous tensor, past autograd and the dispatcher: a cotangent has no history.
inline void set_element(const at::Tensor& tensor, std::int64_t element, double value) {
  if (!tensor.is_cpu()) {
    tensor.view(-1).select(0, element).fill_(value);
  } else if (tensor.scalar_type() == at::kDouble) {
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

/// What is needed beside a row: several batches are added up in float64.
inline std::uint64_t bytes_of_sums(std::int64_t batches, std::int64_t columns) {
  return batches == 1 ? 0 : sizeof(double) * static_cast<std::uint64_t>(columns);
}

/// Rows that are made on a GPU, and added up there: as make_rows().
template <class Number, class GraphOf, class RowOf>
void rows_made_on_device(const Rows& rows, const ColumnsOfParameters& columns, const network::Problem& problem,
                         const GraphOf& graph_of, const RowOf& row_of, Number* out,
                         const std::function<void(double)>& advance) {
  const network::OnDevice on_device(problem.device());
  auto options = problem.parameters().front().options().requires_grad(false);
  if (problem.batches() == 1) {
    RowsFromDevice<Number> finished(options, rows.count(), columns.count(), out);
    const auto& graph = graph_of(0);
    for (auto i = rows.begin; i < rows.end; ++i) {
      finished.put(columns.joined(row_of(graph, i)));
      advance(1);
    }
    finished.finish();
    return;
  }
  options = options.dtype(at::kDouble);
  RowsFromDevice<Number> finished(options, rows.count(), columns.count(), out);
  const at::Tensor sum = at::zeros({rows.count(), columns.count()}, options);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto& graph = graph_of(b);
    for (auto i = rows.begin; i < rows.end; ++i) {
      sum.select(0, i - rows.begin).add_(columns.joined(row_of(graph, i)));
      advance(1.0 / static_cast<double>(problem.batches()));
    }
  }
  for (std::int64_t i = 0; i < rows.count(); ++i) finished.put(sum.select(0, i));
  finished.finish();
}

/// Rows, each the sum of what it is in every batch, [rows][columns] in out. graph_of(b) makes what row_of(graph, i)
/// derives from; its result is used until the next call.
template <class Number, class GraphOf, class RowOf>
void make_rows(const Rows& rows, const ColumnsOfParameters& columns, const network::Problem& problem,
               const GraphOf& graph_of, const RowOf& row_of, Number* out, const std::function<void(double)>& advance) {
  if (!problem.device().is_cpu()) {
    rows_made_on_device(rows, columns, problem, graph_of, row_of, out, advance);
    return;
  }
  if (problem.batches() == 1) {
    const auto& graph = graph_of(0);
    for (auto i = rows.begin; i < rows.end; ++i, out += columns.count()) {
      columns.store(row_of(graph, i), out);
      advance(1);
    }
    return;
  }
  std::vector<double> sum(static_cast<std::size_t>(rows.count() * columns.count()), 0.0);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto& graph = graph_of(b);
    for (auto i = rows.begin; i < rows.end; ++i) {
      columns.add(row_of(graph, i), sum.data() + (i - rows.begin) * columns.count());
      advance(1.0 / static_cast<double>(problem.batches()));
    }
  }
  std::transform(sum.begin(), sum.end(), out, [](double x) { return static_cast<Number>(x); });
}

}  // namespace hessian_mpi::engines
