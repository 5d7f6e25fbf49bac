#include "hessian_mpi/engines/double_backward.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include "flat_row.hpp"
#include "hessian_mpi/base/stopwatch.hpp"

namespace hessian_mpi::engines {

DoubleBackward::DoubleBackward(const network::Problem& problem) : problem_(problem) {
  for (const auto& parameter : problem.parameters()) {
    cotangents_.push_back(torch::zeros(parameter.sizes(), parameter.options().requires_grad(false)));
  }
}

std::int64_t DoubleBackward::rows_at_once() const {
  return rows_worth_a_call(problem_.batches());
}

std::uint64_t DoubleBackward::bytes_per_row(std::int64_t columns) const {
  return bytes_of_sums(problem_.batches(), columns);
}

const DoubleBackward::Graph& DoubleBackward::graph_of(std::int64_t batch) {
  if (!graph_ || graph_->batch != batch) {
    graph_.reset();  // the old graph's memory before the new one's
    graph_ = Graph{batch, problem_.gradient(batch, /*create_graph=*/true)};
  }
  return *graph_;
}

// Derivatives of g_i by some parameters.
std::vector<torch::Tensor> DoubleBackward::row(const Graph& graph, const std::vector<torch::Tensor>& parameters,
                                               std::int64_t i) {
  const auto [parameter, element] = problem_.index().locate(i);
  const torch::Tensor& g = graph.gradient[parameter];
  // A parameter that the loss does not depend on, or depends on linearly alone, has zero rows.
  if (!g.defined() || !g.requires_grad()) return std::vector<torch::Tensor>(parameters.size());
  const Stopwatch watch;
  const torch::Tensor& cotangent = cotangents_[parameter];
  set_element(cotangent, element, 1);
  auto parts = torch::autograd::grad({g}, parameters, {cotangent}, /*retain_graph=*/true,
                                     /*create_graph=*/false, /*allow_unused=*/true);
  // What came back may be the cotangent itself, where a gradient is its parameter.
  for (auto& part : parts) {
    if (part.defined() && !part.is_sparse() && part.is_alias_of(cotangent)) part = part.clone();
  }
  set_element(cotangent, element, 0);
  pass_seconds_ += watch.seconds();
  return parts;
}

void DoubleBackward::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                             const std::function<void(double)>& advance) {
  const ColumnsOfParameters by(problem_, columns);
  const auto parameters = by.parameters();
  const auto graph_of_batch = [this](std::int64_t b) -> const Graph& { return graph_of(b); };
  const auto row_of = [&](const Graph& graph, std::int64_t i) { return row(graph, parameters, i); };
  with_numbers(storage, out,
               [&](auto* numbers) { make_rows(rows, by, problem_, graph_of_batch, row_of, numbers, advance); });
}

}  // namespace hessian_mpi::engines
