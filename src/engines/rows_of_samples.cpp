#include "hessian_mpi/engines/rows_of_samples.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <cmath>
#include <set>

#include "flat_row.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/engines/output_map.hpp"

namespace hessian_mpi::engines {
namespace {

using torch::Tensor;

// Terms of the loss of the whole data set; outputs have none.
double terms_of(const network::Problem& problem, Matrix matrix) {
  return matrix == Matrix::gradients ? problem.terms(problem.output(0)) : 1;
}

Rows batch_of(const network::Problem& problem, std::int64_t sample) {
  return problem.samples_in(sample / problem.batch_size());
}

}  // namespace

std::int64_t rows_of_sample(const network::Problem& problem, Matrix matrix) {
  if (matrix == Matrix::gradients) return 1;
  return numbers_of_samples(problem, matrix, problem.output(0), 1).size(1);
}

std::vector<double> numbers_of_all_samples(const network::Problem& problem, Matrix matrix) {
  const double terms = terms_of(problem, matrix);
  std::vector<double> all;
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto numbers = numbers_of_samples(problem, matrix, problem.output(b), terms).detach();
    with_elements(numbers, [&](const auto* begin, std::int64_t count) { all.insert(all.end(), begin, begin + count); });
  }
  return all;
}

// The derivative of a product with J^T by what it multiplies, which may be zero.
std::vector<double> slopes_of_all_samples(const network::Problem& problem, Matrix matrix,
                                          const std::vector<Tensor>& v) {
  const double terms = terms_of(problem, matrix);
  std::vector<double> all;
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto numbers = numbers_of_samples(problem, matrix, problem.output(b), terms);
    Tensor slopes = torch::zeros_like(numbers.detach());
    if (numbers.requires_grad()) {
      const Tensor cotangent = torch::zeros_like(slopes).requires_grad_();
      const auto pulled = torch::autograd::grad({numbers}, problem.parameters(), {cotangent}, true, true, true);
      Tensor product = (0 * cotangent).sum();
      for (std::size_t p = 0; p < pulled.size(); ++p) {
        if (pulled[p].defined()) product = product + (pulled[p].to_dense() * v[p]).sum();
      }
      slopes = torch::autograd::grad({product}, {cotangent})[0];
    }
    with_elements(slopes, [&](const auto* begin, std::int64_t count) { all.insert(all.end(), begin, begin + count); });
  }
  return all;
}

void expect_losses_of_samples(const network::Problem& problem, double loss) {
  constexpr double rounding = 1e-3;
  const auto losses = numbers_of_all_samples(problem, Matrix::gradients);
  const double count = problem.reduction() == Reduction::mean ? static_cast<double>(losses.size()) : 1;
  double sum = 0;
  double scale = 0;
  for (const double x : losses) {
    sum += x / count;
    scale += std::abs(x) / count;
  }
  if (std::abs(sum - loss) <= rounding * scale) return;
  throw InputError(text("--matrix gradients: the ", name_of(problem.reduction()),
                        " of the losses of single samples is ", sum, ", the loss ", loss,
                        ": it is not made of losses of samples"));
}

RowsOfSamples::RowsOfSamples(const network::Problem& problem, Matrix matrix)
    : problem_(problem),
      matrix_(matrix),
      terms_(terms_of(problem, matrix)),
      rows_of_sample_(rows_of_sample(problem, matrix)),
      alone_(can_run_alone()) {}

Tensor RowsOfSamples::numbers_of(const Rows& samples) const {
  const auto numbers = numbers_of_samples(problem_, matrix_, problem_.output_of(samples), terms_);
  if (numbers.size(1) == rows_of_sample_) return numbers;
  throw InputError(text("--matrix ", name_of(matrix_), ": the model returns ", numbers.size(1), " numbers for sample ",
                        samples.begin, ", and ", rows_of_sample_, " for sample 0"));
}

// A few samples of the first batch and of the last one, which may be smaller.
bool RowsOfSamples::can_run_alone() const {
  if (problem_.batch_size() == 1) return true;
  const double tolerance = problem_.precision() == Precision::float32 ? 1e-4 : 1e-10;
  const auto last = problem_.samples() - 1;
  try {
    for (const auto& batch : {batch_of(problem_, 0), batch_of(problem_, last)}) {
      const Tensor together = numbers_of(batch).detach();
      const Tensor largest = together.abs().max();
      const auto middle = batch.begin + batch.count() / 2;
      for (const auto sample : std::set<std::int64_t>{batch.begin, middle, batch.end - 1}) {
        const Tensor difference = numbers_of({sample, sample + 1}).detach()[0] - together[sample - batch.begin];
        if (!(difference.abs().max() <= tolerance * largest).item<bool>()) return false;
      }
    }
  } catch (const InputError&) {  // a network that takes no other number of samples, say
    return false;
  }
  return true;
}

const RowsOfSamples::Graph& RowsOfSamples::graph_of(std::int64_t sample) {
  const Rows samples = alone_ ? Rows{sample, sample + 1} : batch_of(problem_, sample);
  if (!graph_ || graph_->samples != samples) {
    graph_.reset();  // the old graph's memory before the new one's
    graph_ = Graph{samples, numbers_of(samples)};
  }
  return *graph_;
}

std::int64_t RowsOfSamples::rows_at_once() const {
  constexpr std::int64_t rows_worth_a_call = 64;
  return rows_worth_a_call;
}

template <class Number>
void RowsOfSamples::compute_as(const Rows& rows, const Rows& columns, Number* out,
                               const std::function<void(double)>& advance) {
  const ColumnsOfParameters by(problem_, columns);
  const auto parameters = by.parameters();
  for (auto row = rows.begin; row < rows.end; ++row, out += columns.count()) {
    const auto sample = row / rows_of_sample_;
    const auto& graph = graph_of(sample);
    std::vector<Tensor> parts(parameters.size());
    if (graph.numbers.requires_grad()) {
      const Tensor unit = torch::zeros_like(graph.numbers.detach()).contiguous();
      set_element(unit, row - graph.samples.begin * rows_of_sample_, 1);
      parts = torch::autograd::grad({graph.numbers}, parameters, {unit}, /*retain_graph=*/true, /*create_graph=*/false,
                                    /*allow_unused=*/true);
    }
    by.store(parts, out);
    advance(1);
  }
}

void RowsOfSamples::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                            const std::function<void(double)>& advance) {
  with_numbers(storage, out, [&](auto* numbers) { compute_as(rows, columns, numbers, advance); });
}

}  // namespace hessian_mpi::engines
