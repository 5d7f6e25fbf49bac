#include "layer_plan/copies.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "layer_graph.hpp"
#include "layer_plan/cotangents.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

constexpr std::int64_t most_copies = 8;
// Multiplications of a forward over all copies: beyond, calls are no large part of a pass.
constexpr double worth_a_call = 24e6;

// The same in a copy, and nothing of it in the others.
bool is_in_copy(const Tensor& found, const Tensor& expected, std::int64_t copy, double tolerance) {
  const auto units = expected.size(0);
  const Tensor inside = found.narrow(0, copy * units, units);
  const double scale = expected.abs().max().item<double>();
  if ((inside - expected).abs().max().item<double>() > tolerance * scale) return false;
  return !found.narrow(0, 0, copy * units).any().item<bool>();
}

/// A batch alone and copies of it, to be compared.
class Comparison {
 public:
  Comparison(const network::Problem& problem, std::int64_t batch, std::int64_t copies, const LayerStep& step)
      : alone_(problem, batch),
        copied_(problem, batch, copies),
        step_(step),
        copies_(copies),
        samples_(problem.samples_in(batch).count()) {
    tolerance_ = problem.precision() == Precision::float32 ? 1e-4 : 1e-10;
  }

  bool alike() const {
    if (alone_.forward().calls.size() != copied_.forward().calls.size()) return false;
    std::vector<std::size_t> calls;
    for (const auto& layer : step_.layers) {
      calls.push_back(layer.call);
      if (!has_copies_of(layer)) return false;
    }
    return derivatives_stay_in_the_last_copy(calls);
  }

 private:
  LayerOrder order(const FactoredLayer& layer, std::int64_t copies) const {
    return {Unit::sample, samples_ * copies, layer.samples_last};
  }

  bool has_copies_of(const FactoredLayer& layer) const {
    const auto& one = alone_.call(layer.call);
    const auto& many = copied_.call(layer.call);
    if (one.weight != many.weight || one.bias != many.bias) return false;
    if (one.output.numel() * copies_ != many.output.numel() || one.input.numel() * copies_ != many.input.numel()) {
      return false;
    }
    const Tensor expected = output_by_unit(alone_.delta(layer.call), one, order(layer, 1));
    const Tensor found = output_by_unit(copied_.delta(layer.call), many, order(layer, copies_));
    const double scale = expected.abs().max().item<double>();
    for (std::int64_t k = 0; k < copies_; ++k) {
      const Tensor copy = found.narrow(0, k * samples_, samples_);
      if ((copy - expected).abs().max().item<double>() > tolerance_ * scale) return false;
    }
    return true;
  }

  // Of cotangents that are zero elsewhere.
  bool derivatives_stay_in_the_last_copy(const std::vector<std::size_t>& calls) const {
    std::vector<Tensor> of_delta;
    std::vector<Tensor> of_input;
    std::vector<Tensor> of_delta_in_copy;
    std::vector<Tensor> of_input_in_copy;
    const auto in_copy = [&](const Tensor& units) {
      return at::cat({at::zeros_like(units).repeat_interleave(copies_ - 1, 0), units});
    };
    for (const auto& layer : step_.layers) {
      const auto& one = alone_.call(layer.call);
      const auto& many = copied_.call(layer.call);
      of_delta.push_back(patternless_like(one.output));
      const Tensor deltas = output_by_unit(of_delta.back(), one, order(layer, 1));
      of_delta_in_copy.push_back(output_from_units(in_copy(deltas), many, order(layer, copies_)));
      of_input.emplace_back();
      of_input_in_copy.emplace_back();
      if (alone_.input_depends(layer.call) != copied_.input_depends(layer.call)) return false;
      if (!alone_.input_depends(layer.call)) continue;
      of_input.back() = patternless_like(one.input);
      const Tensor inputs = input_by_unit(of_input.back(), one, order(layer, 1));
      of_input_in_copy.back() = input_from_units(in_copy(inputs), many, order(layer, copies_));
    }
    const auto expected = alone_.derivatives_of(calls, of_delta, of_input, calls);
    const auto found = copied_.derivatives_of(calls, of_delta_in_copy, of_input_in_copy, calls);
    for (std::size_t m = 0; m < calls.size(); ++m) {
      if (expected[m].defined() != found[m].defined()) return false;
      if (!found[m].defined()) continue;
      const auto& layer = step_.layers[m];
      if (!is_in_copy(output_by_unit(found[m], copied_.call(layer.call), order(layer, copies_)),
                      output_by_unit(expected[m], alone_.call(layer.call), order(layer, 1)), copies_ - 1, tolerance_)) {
        return false;
      }
    }
    return true;
  }

  LayerGraph alone_;
  LayerGraph copied_;
  const LayerStep& step_;
  std::int64_t copies_;
  std::int64_t samples_ = 0;
  double tolerance_ = 0;
};

}  // namespace

std::int64_t copies_for(const Network& network, const LayerStep& step) {
  if (step.unit == Unit::batch) return 1;
  const auto& problem = network.problem;
  const auto worth =
      static_cast<std::int64_t>(worth_a_call / std::max(1.0, multiplications_of_forward(network.graph.forward())));
  const auto copies = std::min(most_copies, worth);
  if (copies < 2) return 1;
  try {
    for (const auto batch : std::set<std::int64_t>{0, problem.batches() - 1}) {
      if (!Comparison(problem, batch, copies, step).alike()) return 1;
    }
    return copies;
  } catch (const Error&) {  // a network for batches of one size
    return 1;
  }
}

}  // namespace hessian_mpi::layers
