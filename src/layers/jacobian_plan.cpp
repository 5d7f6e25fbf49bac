#include "hessian_mpi/layers/jacobian_plan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "hessian_mpi/matrix/partition.hpp"
#include "layer_plan/batches.hpp"
#include "layer_plan/cost.hpp"
#include "layer_plan/cotangents.hpp"
#include "output_pass.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

std::vector<std::size_t> all_of(const CapturedForward& forward) {
  std::vector<std::size_t> calls(forward.calls.size());
  std::iota(calls.begin(), calls.end(), std::size_t{0});
  return calls;
}

/// For each call whether derivatives of outputs by it stay with their samples, these coming first or last in it.
class SamplesApart {
 public:
  SamplesApart(const CapturedForward& forward, std::int64_t samples, const std::vector<bool>& has_samples)
      : forward_(forward), samples_(samples), first_(forward.calls.size()), last_(forward.calls.size()) {
    for (std::size_t c = 0; c < forward.calls.size(); ++c) {
      const auto& call = forward.calls[c];
      first_[c] = has_samples[c] && call.output.numel() / outputs_of(call) % samples == 0 &&
                  (!call.convolution || call.output.size(0) == samples);
      last_[c] = first_[c] && !call.convolution;
    }
    for_separating_sets(samples, [&](const auto& contains) { look(contains(at::arange(samples, at::kLong))); });
  }

  bool in_loss() const { return in_loss_; }
  std::optional<bool> samples_last(std::size_t call) const {
    if (first_[call]) return false;
    if (last_[call]) return true;
    return std::nullopt;
  }

 private:
  void look(const Tensor& in_set) {
    const auto& y = forward_.outputs.y;
    const Tensor mask = in_set.unsqueeze(1).expand({samples_, y.numel() / samples_}).reshape(-1).to(y.device());
    const Tensor x = patternless_.like(y) * mask.to(y.scalar_type());
    in_loss_ = in_loss_ && !(forward_.outputs.times(x) != 0).logical_and(~mask).any().item<bool>();
    const auto deltas = derivatives_of_outputs(forward_, x, all_of(forward_), {});
    const Tensor outside = (~in_set).to(y.device());
    const auto stays = [&](std::size_t c, bool samples_last) {
      const auto delta = output_by_unit(deltas[c], forward_.calls[c], {Unit::sample, samples_, samples_last});
      return !(delta != 0).any(2).any(1).logical_and(outside).any().item<bool>();
    };
    for (std::size_t c = 0; c < deltas.size(); ++c) {
      first_[c] = first_[c] && stays(c, false);
      last_[c] = last_[c] && stays(c, true);
    }
  }

  const CapturedForward& forward_;
  std::int64_t samples_;
  Patternless patternless_;
  bool in_loss_ = true;
  std::vector<bool> first_;
  std::vector<bool> last_;
};

// The parameters of layers whose columns are what delta and input say that they are.
std::vector<std::optional<JacobianColumns>> columns_by_layer(const network::Problem& problem,
                                                             const CapturedForward& forward, const SamplesApart& apart,
                                                             std::int64_t samples) {
  const auto& parameters = problem.parameters();
  const double tolerance = problem.precision() == Precision::float32 ? 1e-3 : 1e-9;
  std::vector<std::optional<JacobianColumns>> columns(parameters.size());
  const auto found = derivatives_of_outputs(forward, patternless_like(forward.outputs.y), all_of(forward), parameters);
  for (std::size_t c = 0; c < forward.calls.size(); ++c) {
    const auto& call = forward.calls[c];
    const auto samples_last = apart.samples_last(c);
    for (const bool bias : {false, true}) {
      const auto& parameter = bias ? call.bias : call.weight;
      if (!parameter || !samples_last || tied_set_of(forward, c)) continue;
      const LayerOrder order{Unit::sample, samples, *samples_last};
      const Tensor expected = found[forward.calls.size() + *parameter].reshape(-1);
      const Tensor difference = gradient_by_unit(found[c], call, bias, order).sum(0) - expected;
      if (difference.abs().max().item<double>() > tolerance * expected.abs().max().item<double>()) continue;
      const bool product = !bias && !call.elementwise && groups_of(call) == 1 && positions_of(call, order) == 1;
      columns[*parameter] = {c, bias, *samples_last, product, call.by_input, outputs_of(call), weight_columns(call)};
    }
  }
  return columns;
}

constexpr double pass_forwards = 2;
constexpr std::uint64_t most_bytes = 1'000'000'000;

// What a number of a row has to be computed for: its columns.
double numbers_of(const matrix::MatrixShape& matrix, const matrix::ParameterEntry& entry) {
  constexpr double side = 64;  // of the squares that a diagonal is made of
  if (matrix.entries == Entries::diagonal) return side * static_cast<double>(entry.size);
  return static_cast<double>(entry.size) * static_cast<double>(matrix.columns_of(entry.offset).count());
}

void count(const network::Problem& problem, const CapturedForward& forward, Entries entries, JacobianPlan& plan) {
  const auto all = static_cast<double>(plan.all_outputs());
  const auto n = problem.index().size();
  const auto matrix = matrix::matrix_of(problem.index(), problem.precision(), entries);
  double kept = 0;
  double products = 0;
  double making = 0;
  for (std::size_t p = 0; p < plan.columns.size(); ++p) {
    const auto& entry = problem.index().entries()[p];
    products += all * numbers_of(matrix, entry);
    if (const auto& columns = plan.columns[p]; columns && columns->product) {
      kept += all * static_cast<double>(columns->outputs) +
              static_cast<double>(problem.samples()) * static_cast<double>(columns->inputs);
    } else {
      kept += all * static_cast<double>(entry.size);
      if (columns) {
        const LayerOrder order{Unit::sample, problem.batch_size(), columns->samples_last};
        making += all * static_cast<double>(entry.size * positions_of(forward.calls[columns->call], order));
      }
    }
  }
  for (const auto k : plan.outputs) {
    kept += static_cast<double>(k) * static_cast<double>(plan.outputs_of_sample > 0 ? plan.outputs_of_sample : k);
  }
  const auto batches = problem.batches();
  plan.passes = plan.outputs_of_sample * batches + (plan.others().empty() ? 0 : plan.all_outputs());
  plan.bytes = static_cast<std::uint64_t>(kept) * bytes_of(problem.precision());
  plan.kept = plan.bytes <= most_bytes;
  const double derived =
      static_cast<double>(plan.passes) * (pass_forwards * multiplications_of_forward(forward) + pass_overhead) + making;
  const auto times = plan.kept ? 1 : (n + rows_worth_deriving(n) - 1) / rows_worth_deriving(n);
  if (!plan.kept) plan.bytes /= static_cast<std::uint64_t>(batches);
  plan.cost = static_cast<double>(times) * derived + tile_multiplication * products +
              written_number * static_cast<double>(n) * static_cast<double>(n);
}

}  // namespace

std::int64_t JacobianPlan::all_outputs() const {
  return std::accumulate(outputs.begin(), outputs.end(), std::int64_t{0});
}

std::vector<std::size_t> JacobianPlan::others() const {
  std::vector<std::size_t> parameters;
  for (std::size_t p = 0; p < columns.size(); ++p) {
    if (!columns[p]) parameters.push_back(p);
  }
  return parameters;
}

std::int64_t rows_worth_deriving(std::int64_t columns) {
  constexpr std::int64_t most_numbers = 32 << 20;
  return std::max<std::int64_t>(64, most_numbers / columns);
}

JacobianPlan plan_jacobian(const network::Problem& problem, Entries entries) {
  JacobianPlan plan;
  const auto forward = capture_layers(problem, 0);
  const auto samples = problem.samples_in(0).count();
  const auto outputs = forward.outputs.y.numel();
  const auto common = in_common(problem, forward);
  plan.outputs = common.outputs;
  plan.columns.resize(problem.parameters().size());
  if (common.alike && outputs % samples == 0) {
    const SamplesApart apart(forward, samples, common.has_samples);
    if (apart.in_loss()) plan.columns = columns_by_layer(problem, forward, apart, samples);
    const bool any = plan.others().size() < plan.columns.size();
    if (any) plan.outputs_of_sample = outputs / samples;
  }
  count(problem, forward, entries, plan);
  return plan;
}

LayerPlan plan_products(const network::Problem& problem, const JacobianPlan& jacobian,
                        const matrix::MatrixShape& matrix) {
  // Each step waits for the slowest of all ranks: of more steps many ranks would lose what products gain.
  constexpr std::int64_t steps = 4;
  constexpr std::int64_t many_outputs = 512;
  // A part of the rows brings its columns by making them: no more than a rank has room for.
  constexpr std::int64_t most_bytes_of_matrix = std::int64_t{4} << 30;
  auto plan = plan_layers(problem, Method::rows, matrix.entries);
  const auto n = matrix.columns;
  const auto height = matrix.grid.rows_per_block(0);
  if (matrix.entries != Entries::all || !jacobian.kept || jacobian.all_outputs() < many_outputs || n < steps * height ||
      n * matrix.bytes_of_row() > most_bytes_of_matrix) {
    return plan;
  }
  plan.steps.clear();
  for (std::int64_t k = 0; k < steps; ++k) {
    const auto begin = n * k / steps / height * height;
    const Rows rows{begin, k + 1 < steps ? n * (k + 1) / steps / height * height : n};
    auto& step = plan.steps.emplace_back();
    step.rows = rows.count();
    step.products = rows;
  }
  return plan;
}

}  // namespace hessian_mpi::layers
