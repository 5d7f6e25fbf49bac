#include "hessian_mpi/layer_plan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/printable.hpp"
#include "layer_factors/layer_graph.hpp"
#include "layer_factors/layer_tensors.hpp"
#include "layer_plan/copies.hpp"
#include "layer_plan/cost.hpp"
#include "layer_plan/crossing.hpp"

namespace hessian_mpi {
namespace {

using torch::Tensor;

// Whether a weight's gradient is what the captured call says that it is: the sum over rows of delta times input.
bool explains_gradient(const LayerGraph& graph, std::size_t c, std::int64_t samples, double tolerance) {
  const auto& call = graph.call(c);
  const LayerOrder order{Unit::batch, samples, false};
  const Tensor delta = output_by_unit(graph.delta(c), call, order).squeeze(0);
  const auto close = [&](const Tensor& expected, const Tensor& found) {
    const double scale = std::max(expected.abs().max().item<double>(), found.abs().max().item<double>());
    return (expected - found).abs().max().item<double>() <= tolerance * scale;
  };
  if (call.bias && graph.gradient(*call.bias).defined() &&
      !close(graph.gradient(*call.bias).reshape(-1), delta.sum(0))) {
    return false;
  }
  if (!call.weight || !graph.gradient(*call.weight).defined()) return true;
  const Tensor& gradient = graph.gradient(*call.weight);
  const Tensor expected = call.by_input ? gradient.t() : gradient.reshape({outputs_of(call), -1});
  const auto outputs = outputs_of(call) / groups_of(call);
  for (std::int64_t g = 0; g < groups_of(call); ++g) {
    const Tensor inputs = input_patches(call, g, order).squeeze(0);
    const Tensor found = delta.narrow(1, g * outputs, outputs).t().mm(inputs);
    if (!close(expected.narrow(0, g * outputs, outputs), found)) return false;
  }
  return true;
}

// Whether all batches run the same layers, each with as many positions for a sample.
bool same_in_all_batches(const Problem& problem, const CapturedForward& first) {
  for (std::int64_t b = 1; b < problem.batches(); ++b) {
    const auto other = capture_layers(problem, b);
    if (other.calls.size() != first.calls.size() || other.reasons != first.reasons) return false;
    const auto samples = problem.samples_in(b).count();
    for (std::size_t c = 0; c < first.calls.size(); ++c) {
      const auto& one = first.calls[c];
      const auto& two = other.calls[c];
      if (one.weight != two.weight || one.bias != two.bias) return false;
      if (one.output.numel() * samples != two.output.numel() * problem.batch_size()) return false;
      if (one.input.numel() * samples != two.input.numel() * problem.batch_size()) return false;
    }
  }
  return true;
}

// Leaves layers out one by one as long as that makes the whole cheaper.
Choice cheapest(const Network& network, Choice choice, std::vector<std::string>& why) {
  double cost = cost_of(network, counts_of(network, choice));
  while (!choice.empty()) {
    std::size_t best = choice.front().call;
    double least = cost;
    for (const auto& [c, unit, bias] : choice) {
      const double other = cost_of(network, counts_of(network, without(choice, c)));
      if (other < least) {
        least = other;
        best = c;
      }
    }
    if (least >= cost) break;
    cost = least;
    choice = without(choice, best);
    why[best] = "row by row takes fewer operations";
  }
  return choice;
}

// Whatever memory there is: the choice must not depend on it, since the last digits of rows depend on the choice.
constexpr std::uint64_t largest_factors = 8'000'000'000;

// Leaves out the layers whose factors are largest until all are small enough.
Choice fitting(const Network& network, Choice choice, std::vector<std::string>& why) {
  const auto bytes = [&](const Choice& some) {
    return counts_of(network, some).numbers() * bytes_of(network.problem.precision());
  };
  while (!choice.empty() && bytes(choice) > largest_factors) {
    const auto largest = std::min_element(choice.begin(), choice.end(), [&](const Chosen& a, const Chosen& b) {
                           return bytes(without(choice, a.call)) < bytes(without(choice, b.call));
                         })->call;
    choice = without(choice, largest);
    why[largest] = "its factors would take more than 8 GB";
  }
  return choice;
}

struct Proposal {
  Choice choice;
  std::vector<std::string> why;  // of each call that is not chosen
  double cost = 0;
};

Proposal proposal(const Network& network, Choice choice, std::vector<std::string> why, Method method) {
  choice = fitting(network, std::move(choice), why);
  if (method == Method::automatic) choice = cheapest(network, std::move(choice), why);
  const double cost = cost_of(network, counts_of(network, choice));
  return {std::move(choice), std::move(why), cost};
}

// What a call's derivatives do not cross, where more of them are kept apart than a batch.
std::vector<Unit> units_of_calls(const Crossing& crossing, const LayerGraph& graph, const Separable& separable,
                                 const std::vector<std::size_t>& sound) {
  std::vector<Unit> units(crossing.count(), Unit::batch);
  std::vector<std::size_t> calls;
  std::set_intersection(separable.calls.begin(), separable.calls.end(), sound.begin(), sound.end(),
                        std::back_inserter(calls));
  for (const auto c : calls) units[c] = Unit::sample;
  for (const auto c : apart_by_position(crossing, graph, calls, separable.samples_last)) {
    units[c] = Unit::position;
  }
  return units;
}

Proposal best_proposal(const Network& network, const std::vector<Unit>& units, const std::vector<std::size_t>& sound,
                       Method method) {
  // Each call with its unit, but none with one that comes after a limit; those that keep no samples apart are left out.
  const auto with_units = [&](Unit last, bool batch_too) {
    Choice choice;
    std::vector<std::string> why(units.size());
    for (const auto c : sound) {
      if (units[c] == Unit::batch && !batch_too) {
        why[c] = "its samples interact";
      } else {
        Chosen chosen{c, std::min(units[c], last)};
        chosen.bias = method == Method::layers || !is_cheaper_without_bias(network, chosen);
        choice.push_back(chosen);
      }
    }
    return proposal(network, std::move(choice), std::move(why), method);
  };
  std::vector<Proposal> proposals{with_units(Unit::sample, false), with_units(Unit::position, false)};
  if (network.problem.samples() % network.problem.batch_size() == 0) {  // batches are all alike
    proposals.push_back(with_units(Unit::batch, true));
    proposals.push_back(with_units(Unit::position, true));
  }
  const auto better = [&](const Proposal& a, const Proposal& b) {
    // Asked for layers, the user gets as many as there are.
    const auto factored_in_a = parameters_in(network, a.choice);
    const auto factored_in_b = parameters_in(network, b.choice);
    if (method == Method::layers && factored_in_a != factored_in_b) return factored_in_a > factored_in_b;
    return a.cost < b.cost;
  };
  return *std::min_element(proposals.begin(), proposals.end(), better);
}

LayerPlan all_row_by_row(const Problem& problem, const std::string& reason) {
  LayerPlan plan;
  plan.reasons.assign(problem.parameters().size(), reason);
  plan.steps.assign(problem.parameters().size(), 0);
  plan.rows = {problem.index().size()};
  plan.row_costs.assign(problem.parameters().size(), 1);
  plan.rows_together.assign(problem.parameters().size(), 1);
  return plan;
}

// Each layer in a stage of its own: the derivatives of one layer's input by another layer's output have no part in its
// diagonal block.
std::vector<LayerStage> one_by_one(const std::vector<LayerStage>& stages) {
  std::vector<LayerStage> single;
  for (const auto& stage : stages) {
    for (auto layer : stage.layers) {
      layer.upstream.clear();
      if (layer.makes_rows) single.push_back({stage.unit, {std::move(layer)}});
    }
  }
  return single;
}

LayerPlan plan_of(const Network& network, const Proposal& proposal, const std::vector<bool>& samples_last,
                  Entries entries) {
  const auto& calls = network.graph.forward().calls;
  LayerPlan plan = all_row_by_row(network.problem, "");
  plan.reasons = network.graph.forward().reasons;
  plan.stages = stages_of(network, proposal.choice, samples_last);
  if (entries != Entries::all) plan.stages = one_by_one(plan.stages);
  plan.row_costs.assign(plan.steps.size(), cost_of_plain_row(network));
  for (std::size_t c = 0; c < calls.size(); ++c) {
    for (const auto& parameter : {calls[c].weight, calls[c].bias}) {
      if (parameter) plan.reasons[*parameter] = proposal.why[c];
    }
  }
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    for (const auto& layer : plan.stages[s].layers) {
      if (!layer.makes_rows) continue;
      const auto& call = calls[layer.call];
      if (call.weight) plan.steps[*call.weight] = s + 1;
      if (call.bias && layer.has_bias) plan.steps[*call.bias] = s + 1;
      if (call.bias && !layer.has_bias)
        plan.reasons[*call.bias] = "its few rows take less than passes for each position";
    }
    plan.stages[s].copies = copies_for(network, plan.stages[s]);
    const auto costs = costs_of_rows(network, plan.stages[s]);
    const auto together = rows_together(network, plan.stages[s]);
    for (std::size_t p = 0; p < plan.steps.size(); ++p) {
      if (plan.steps[p] != s + 1) continue;
      plan.row_costs[p] = costs.at(p);
      plan.rows_together[p] = together.at(p);
    }
    const auto counts = counts_of(network, plan.stages[s]);
    plan.rows.push_back(-counts.plain_rows);
    plan.rows.front() += counts.plain_rows;
    plan.passes.push_back(counts.delta_passes + counts.input_passes);
    const auto bytes = bytes_of(network.problem.precision());
    plan.bytes = std::max(plan.bytes, counts.inputs * bytes);
    plan.bytes_if_there = std::max(plan.bytes_if_there, (counts.derivatives + counts.outputs) * bytes);
  }
  return plan;
}

}  // namespace

LayerPlan plan_layers(const Problem& problem, Method method, Entries entries) {
  if (method == Method::rows) return all_row_by_row(problem, "--method rows");
  const LayerGraph graph(problem, 0);
  if (!same_in_all_batches(problem, graph.forward())) {
    return all_row_by_row(problem, "the network runs other layers in other batches");
  }
  Network network{problem, graph, {}};
  const Crossing crossing(graph, problem.batch_size());
  std::vector<std::size_t> sound;
  std::vector<std::string> unsound(crossing.count());
  const double tolerance = problem.precision() == Precision::float32 ? 1e-3 : 1e-9;
  for (std::size_t c = 0; c < crossing.count(); ++c) {
    network.upstream.push_back(crossing.upstream(c));
    if (explains_gradient(graph, c, problem.batch_size(), tolerance)) {
      sound.push_back(c);
    } else {
      unsound[c] = "its gradient is not that of the layer alone";
    }
  }
  const auto separable = separable_calls(crossing, graph);
  auto best = best_proposal(network, units_of_calls(crossing, graph, separable, sound), sound, method);
  for (std::size_t c = 0; c < unsound.size(); ++c) {
    if (!unsound[c].empty()) best.why[c] = unsound[c];
  }
  return plan_of(network, best, separable.samples_last, entries);
}

std::vector<Rows> rows_of(const LayerPlan& plan, const ParameterIndex& index, std::size_t step) {
  std::vector<Rows> runs;
  for (std::size_t p = 0; p < index.entries().size(); ++p) {
    const auto& entry = index.entries()[p];
    if (plan.steps[p] == step) append_run({entry.offset, entry.offset + entry.size}, runs);
  }
  return runs;
}

double cost_of(const LayerPlan& plan, const ParameterIndex& index, const Rows& rows) {
  double cost = 0;
  for (auto row = rows.begin; row < rows.end;) {
    const auto parameter = index.locate(row).parameter;
    const auto& entry = index.entries()[parameter];
    const auto end = std::min(rows.end, entry.offset + entry.size);
    cost += static_cast<double>(end - row) * plan.row_costs[parameter];
    row = end;
  }
  return cost;
}

std::string lines_of(const LayerPlan& plan, const ParameterIndex& index) {
  std::string lines;
  for (std::size_t p = 0; p < plan.reasons.size(); ++p) {
    lines += text(p == 0 ? "" : "\n", index.entries()[p].name, ": ",
                  plan.is_factored(p) ? "layers" : text("rows, ", plan.reasons[p]));
  }
  return lines;
}

std::string text_of(const LayerPlan& plan) {
  if (plan.stages.empty()) return "rows";
  std::string line = "layers: ";
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    const auto unit = plan.stages[s].unit;
    line += text(plan.rows[s + 1], " rows from ", plan.passes[s], " backward passes, each for ",
                 unit == Unit::position ? "all positions of all samples at once"
                 : unit == Unit::sample ? "all samples at once"
                                        : "a position of one sample",
                 "; ");
  }
  return line + text(plan.rows.front(), " rows row by row");
}

std::vector<std::string> text_of_reasons(const LayerPlan& plan, const ParameterIndex& index) {
  constexpr std::size_t most = 4;
  std::map<std::string, std::vector<std::string>> names;
  for (std::size_t p = 0; p < plan.reasons.size(); ++p) {
    if (!plan.is_factored(p)) names[plan.reasons[p]].push_back(index.entries()[p].name);
  }
  std::vector<std::string> lines;
  for (const auto& [reason, some] : names) {
    std::string listed;
    for (std::size_t k = 0; k < std::min(most, some.size()); ++k) listed += (k == 0 ? "" : ", ") + printable(some[k]);
    if (some.size() > most) listed += text(" and ", some.size() - most, " more");
    lines.push_back(text(listed, ": ", reason));
  }
  return lines;
}

}  // namespace hessian_mpi
