#include "hessian_mpi/engines/jacobian_rows.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include "flat_row.hpp"

namespace hessian_mpi::engines {

using torch::Tensor;

std::int64_t JacobianRows::rows_at_once() const {
  return rows_worth_a_call(problem_.batches());
}

std::uint64_t JacobianRows::bytes_per_row(std::int64_t columns) const {
  return bytes_of_sums(problem_.batches(), columns);
}

const JacobianRows::Graph& JacobianRows::graph_of(std::int64_t batch) {
  if (!graph_ || graph_->batch != batch) {
    graph_.reset();  // the old graph's memory before the new one's
    graph_ = Graph{batch, JacobianGraph(problem_, matrix_, batch)};
  }
  return *graph_;
}

std::vector<Tensor> JacobianRows::row(const Graph& graph, const std::vector<Tensor>& parameters, std::int64_t i) const {
  const auto [parameter, element] = problem_.index().locate(i);
  const auto& jacobian = graph.jacobian;
  const Tensor& g = jacobian.products()[parameter];
  std::vector<Tensor> none(parameters.size());
  if (!g.defined() || !g.requires_grad()) return none;
  const Tensor unit = torch::zeros_like(g).contiguous().detach();
  set_element(unit, element, 1);
  const Tensor column = jacobian.times({g}, {unit});
  return column.defined() ? jacobian.pulled_back(column, parameters) : none;
}

void JacobianRows::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                           const std::function<void(double)>& advance) {
  const ColumnsOfParameters by(problem_, columns);
  const auto parameters = by.parameters();
  const auto graph_of_batch = [this](std::int64_t b) -> const Graph& { return graph_of(b); };
  const auto row_of = [&](const Graph& graph, std::int64_t i) { return row(graph, parameters, i); };
  with_numbers(storage, out,
               [&](auto* numbers) { make_rows(rows, by, problem_, graph_of_batch, row_of, numbers, advance); });
}

std::vector<Tensor> outputs_of(const network::Problem& problem, Matrix matrix) {
  std::vector<Tensor> outputs;
  for (std::int64_t b = 0; b < problem.batches(); ++b) outputs.push_back(output_map(problem, matrix, b).y.detach());
  return outputs;
}

std::vector<Tensor> pulled_back(const network::Problem& problem, Matrix matrix, std::int64_t batch,
                                const Tensor& output) {
  const auto map = output_map(problem, matrix, batch);
  return transposed_times(problem.parameters(), map.y, map.times(output.to(map.y.scalar_type())),
                          /*create_graph=*/false);
}

std::vector<double> pulled_back(const network::Problem& problem, Matrix matrix, const std::vector<Tensor>& outputs) {
  std::vector<double> sum(static_cast<std::size_t>(problem.index().size()), 0.0);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    all_columns(problem).add(pulled_back(problem, matrix, b, outputs[static_cast<std::size_t>(b)]), sum.data());
  }
  return sum;
}

}  // namespace hessian_mpi::engines
