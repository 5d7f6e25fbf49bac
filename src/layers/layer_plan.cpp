#include "hessian_mpi/layers/layer_plan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "layer_graph.hpp"
#include "layer_plan/batches.hpp"
#include "layer_plan/copies.hpp"
#include "layer_plan/cost.hpp"
#include "layer_plan/crossing.hpp"
#include "layer_plan/round_tail.hpp"
#include "layer_tail.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

// The gradient of a parameter as the captured calls say that it is: the sum over rows of delta times input.
Tensor gradient_by_calls(const LayerGraph& graph, std::size_t parameter, std::int64_t samples) {
  Tensor sum;
  for (std::size_t c = 0; c < graph.forward().calls.size(); ++c) {
    const auto& call = graph.call(c);
    for (const bool bias : {false, true}) {
      if ((bias ? call.bias : call.weight) != parameter) continue;
      const Tensor part = gradient_by_unit(graph.delta(c), call, bias, {Unit::batch, samples, false}).squeeze(0);
      sum = sum.defined() ? sum + part : part;
    }
  }
  return sum;
}

bool explains_gradient(const LayerGraph& graph, std::size_t c, std::int64_t samples, double tolerance) {
  for (const auto& parameter : {graph.call(c).weight, graph.call(c).bias}) {
    if (!parameter || !graph.gradient(*parameter).defined()) continue;
    const Tensor expected = graph.gradient(*parameter).reshape(-1);
    const Tensor found = gradient_by_calls(graph, *parameter, samples);
    const double scale = std::max(expected.abs().max().item<double>(), found.abs().max().item<double>());
    if ((expected - found).abs().max().item<double>() > tolerance * scale) return false;
  }
  return true;
}

// Numbers in memory, whatever memory there is: the choice must not depend on it, since the last digits of rows depend
// on the choice.
constexpr std::uint64_t most_bytes_of_inputs = 500'000'000;
constexpr std::uint64_t most_bytes_of_outputs = 1'000'000'000;

// Has rows made by passes of their own where those for outputs find too much, and leaves out what is too large even so.
Choice fitting(const Network& network, Choice choice, std::vector<std::string>& why) {
  const auto bytes = bytes_of(network.problem.precision());
  const auto leave_out = [&](std::size_t c) {
    const auto left = without(choice, c);
    for (const auto& chosen : choice) {
      if (std::none_of(left.begin(), left.end(), [&](const Chosen& other) { return other.call == chosen.call; })) {
        why[chosen.call] = "its factors would take more than 1 GB";
      }
    }
    choice = left;
  };
  for (const bool by_row_already : {false, true}) {
    for (const auto c : calls_with_outputs_above(most_bytes_of_outputs / bytes, network, choice)) {
      const auto chosen =
          std::find_if(choice.begin(), choice.end(), [=](const Chosen& some) { return some.call == c; });
      if (chosen == choice.end()) continue;  // left out with one that it shares parameters with
      if (by_row_already) {
        leave_out(c);
      } else {
        chosen->by_row = true;
      }
    }
  }
  while (!choice.empty() && counts_of(network, choice).inputs * bytes > most_bytes_of_inputs) {
    leave_out(std::max_element(choice.begin(), choice.end(), [&](const Chosen& a, const Chosen& b) {
                return network.graph.call(a.call).input.numel() < network.graph.call(b.call).input.numel();
              })->call);
  }
  return choice;
}

// The calls that a call's rows are made with in all columns at once, if they are: those that share parameters, since a
// row is a sum over them, and an elementwise one, since its few rows, made first, are columns of others that take
// nothing.
std::optional<std::size_t> whole_set_of(const CapturedForward& forward, std::size_t call) {
  if (const auto tied = tied_set_of(forward, call)) return tied;
  if (forward.calls[call].elementwise) return forward.tied.size() + call;
  return std::nullopt;
}

// A pass for each row where those for outputs take more.
Choice with_cheaper_passes(const Network& network, Choice choice) {
  double cost = cost_of(network, counts_of(network, choice));
  for (auto& chosen : choice) {
    if (chosen.whole_set) continue;
    chosen.by_row = !chosen.by_row;
    const double other = cost_of(network, counts_of(network, choice));
    if (other < cost) {
      cost = other;
    } else {
      chosen.by_row = !chosen.by_row;
    }
  }
  return choice;
}

// What a pass takes that starts at a call, for its own columns and those of calls after it, or for all.
OperatorCounts counts_of_pass(const Network& network, const LayerGraph& graph, std::size_t c,
                              const std::vector<std::size_t>& sound) {
  const bool whole = whole_set_of(graph.forward(), c).has_value();
  std::vector<std::size_t> outputs;
  std::vector<std::size_t> inputs;
  for (const auto m : sound) {
    if (!whole && m < c) continue;
    outputs.push_back(m);
    const auto& upstream = network.upstream[m];
    const bool downstream =
        whole ? !upstream.empty() : std::find(upstream.begin(), upstream.end(), c) != upstream.end();
    if (graph.call(m).weight && downstream) inputs.push_back(m);
  }
  const LayerGraph::Start start{c, at::ones_like(graph.call(c).output),
                                whole ? at::ones_like(graph.call(c).input) : Tensor()};
  return counts_of_operators([&] { graph.second_derivatives({start}, outputs, inputs); });
}

struct Proposal {
  Choice choice;
  std::vector<std::string> why;  // of each call that is not chosen
  double cost = 0;
};

Proposal proposal(const Network& network, Choice choice, std::vector<std::string> why) {
  choice = fitting(network, with_cheaper_passes(network, std::move(choice)), why);
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
  for (const auto& tied : graph.forward().tied) {
    const auto least = units[*std::min_element(tied.begin(), tied.end(),
                                               [&](std::size_t a, std::size_t b) { return units[a] < units[b]; })];
    for (const auto c : tied) units[c] = least;
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
        auto& chosen = choice.emplace_back(Chosen{c, std::min(units[c], last)});
        chosen.whole_set = whole_set_of(network.graph.forward(), c);
        chosen.by_row = chosen.whole_set.has_value();
      }
    }
    return proposal(network, std::move(choice), std::move(why));
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

LayerPlan all_by_double_backward(const network::Problem& problem, const std::string& reason) {
  LayerPlan plan;
  plan.parameters.assign(problem.parameters().size(), {0, reason});
  plan.steps.emplace_back().rows = problem.index().size();
  return plan;
}

// Each layer by itself, without the columns of others.
std::vector<LayerStep> alone(const std::vector<LayerStep>& steps) {
  std::vector<LayerStep> single;
  for (const auto& step : steps) {
    if (step.whole) {
      auto& own = single.emplace_back(step);
      own.layers.resize(step.row_layers);
      continue;
    }
    for (std::size_t l = 0; l < step.row_layers; ++l) {
      auto& layer = single.emplace_back(LayerStep{step.unit, {step.layers[l]}}).layers.front();
      layer.upstream.clear();
    }
  }
  return single;
}

// The parameters of a layer whose rows a step makes.
void note_parameters(const Network& network, std::size_t s, std::size_t l, bool handed, LayerPlan& plan) {
  const auto& step = plan.steps[s];
  const auto& call = network.graph.call(step.layers[l].call);
  const auto together = rows_together(network, step, l);
  const auto work = work_of_row(network, step, l, handed);
  const auto outputs = outputs_of_rows(network, step, l);
  if (call.weight) {
    plan.parameters[*call.weight] = {s, "", work.of_weight, together.of_weight, outputs.of_weight, outputs.together};
  }
  if (call.bias) {
    const auto weight = outputs.of_weight == 0 ? call.weight : std::nullopt;
    plan.parameters[*call.bias] = {s, "", work.of_bias, together.of_bias, outputs.of_bias, outputs.together, weight};
  }
}

// One for all steps; none where it does not serve them.
void give_numbers_to_tails(const Network& network, std::vector<LayerStep>& steps) {
  std::shared_ptr<const Tail> tail;
  std::map<std::int64_t, bool> serves;  // so many copies
  for (auto& step : steps) {
    if (!step.tail) continue;
    if (!tail) tail = std::make_shared<const Tail>(with_numbers(network.graph.forward(), *step.tail));
    step.tail = tail;
    const auto [found, is_new] = serves.try_emplace(step.copies);
    if (is_new) found->second = finds_the_same_round_tail(network.problem, step);
    if (!found->second) step.tail = nullptr;
  }
}

void give_copies(const Network& network, LayerStep& step) {
  const auto bytes = bytes_of(network.problem.precision());
  step.copies = copies_for(network, step);
  if (counts_of(network, step).outputs * bytes > most_bytes_of_outputs) step.copies = 1;
}

// Whether passes serve rows that are no neighbours: with too little memory each range of rows makes all passes again.
bool has_scattered_rows(const Network& network, const LayerStep& step) {
  const auto end = step.layers.begin() + static_cast<std::ptrdiff_t>(step.row_layers);
  return std::any_of(step.layers.begin(), end, [&](const FactoredLayer& layer) {
    return !layer.by_row && network.graph.call(layer.call).by_input;
  });
}

void add_step(const Network& network, LayerStep step, bool handed, LayerPlan& plan) {
  const auto bytes = bytes_of(network.problem.precision());
  const auto counts = counts_of(network, step);
  step.rows = -counts.double_backward_rows;
  plan.steps.front().rows += counts.double_backward_rows;
  step.passes = counts.passes;
  step.bytes_if_there = (has_scattered_rows(network, step) ? counts.kept : counts.outputs) * bytes;
  plan.bytes = std::max(plan.bytes, counts.inputs * bytes);
  if (step.tail) plan.bytes_of_tail = step.tail->bytes();
  plan.steps.push_back(std::move(step));
  const auto last = plan.steps.size() - 1;
  for (std::size_t l = 0; l < plan.steps[last].row_layers; ++l) note_parameters(network, last, l, handed, plan);
}

LayerPlan plan_of(const Network& network, const Proposal& proposal, const std::vector<bool>& samples_last,
                  Entries entries) {
  const auto& forward = network.graph.forward();
  LayerPlan plan = all_by_double_backward(network.problem, "");
  for (std::size_t p = 0; p < plan.parameters.size(); ++p) {
    plan.parameters[p].reason = forward.reasons[p];
    plan.parameters[p].row_work = work_of_double_backward_row(network);
  }
  for (std::size_t c = 0; c < forward.calls.size(); ++c) {
    for (const auto& parameter : {forward.calls[c].weight, forward.calls[c].bias}) {
      if (parameter) plan.parameters[*parameter].reason = proposal.why[c];
    }
  }
  auto steps = steps_of(network, proposal.choice, samples_last);
  if (entries != Entries::all) steps = alone(steps);
  for (auto& step : steps) {
    step.halves = entries != Entries::diagonal;
    give_copies(network, step);
  }
  give_numbers_to_tails(network, steps);
  for (auto& step : steps) add_step(network, std::move(step), entries == Entries::all, plan);
  return plan;
}

}  // namespace

LayerPlan plan_layers(const network::Problem& problem, Method method, Entries entries) {
  if (problem.by_inputs()) return all_by_double_backward(problem, "it is an input");
  if (method == Method::rows) return all_by_double_backward(problem, "--method rows");
  const LayerGraph graph(problem, 0);
  const auto common = in_common(problem, graph.forward());
  if (!common.alike) {
    return all_by_double_backward(problem, "the network runs other layers in other batches");
  }
  Network network{problem, graph, {}, first_calls(graph.forward()), {}};
  const Crossing crossing(graph, problem.batch_size(), common.has_samples);
  std::vector<std::size_t> sound;
  std::vector<std::string> unsound(crossing.count());
  const double tolerance = problem.precision() == Precision::float32 ? 1e-3 : 1e-9;
  for (std::size_t c = 0; c < crossing.count(); ++c) {
    network.upstream.push_back(crossing.upstream(c));
    if (!common.has_samples[c]) {
      unsound[c] = "it enters a tensor without samples";
    } else if (!explains_gradient(graph, c, problem.batch_size(), tolerance)) {
      unsound[c] = "its gradient is not that of the layer alone";
    } else if (!graph.knows_input(c)) {
      unsound[c] = "the gradient of its input has no derivative";
    }
  }
  for (const auto& tied : graph.forward().tied) {
    const auto worst = std::find_if(tied.begin(), tied.end(), [&](std::size_t c) { return !unsound[c].empty(); });
    if (worst == tied.end()) continue;
    for (const auto c : tied) unsound[c] = unsound[*worst];
  }
  for (std::size_t c = 0; c < crossing.count(); ++c) {
    if (unsound[c].empty()) sound.push_back(c);
  }
  network.passes.resize(crossing.count());
  if (!sound.empty()) counts_of_pass(network, graph, sound.front(), sound);  // makes what all passes have in common
  for (const auto c : sound) network.passes[c] = counts_of_pass(network, graph, c, sound);
  const auto separable = separable_calls(crossing, graph);
  const auto units = units_of_calls(crossing, graph, separable, sound);
  look_for_tail(
      units, separable.samples_last, sound,
      [&](const LayerGraph& other, std::size_t c) { return counts_of_pass(network, other, c, sound); }, network);
  auto best = best_proposal(network, units, sound, method);
  for (std::size_t c = 0; c < unsound.size(); ++c) {
    if (!unsound[c].empty()) best.why[c] = unsound[c];
  }
  return plan_of(network, best, separable.samples_last, entries);
}

std::vector<Rows> rows_of(const LayerPlan& plan, const matrix::ParameterIndex& index, std::size_t step) {
  if (const auto& rows = plan.steps[step].products) return {*rows};
  std::vector<Rows> runs;
  for (std::size_t p = 0; p < index.entries().size(); ++p) {
    const auto& entry = index.entries()[p];
    if (plan.parameters[p].step == step) matrix::append_run({entry.offset, entry.offset + entry.size}, runs);
  }
  return runs;
}

Work work_of(const LayerPlan& plan, const matrix::ParameterIndex& index, const Rows& rows) {
  Work work;
  if (plan.steps.front().products) {
    for (const auto& step : plan.steps) {
      const auto count = std::min(rows.end, step.products->end) - std::max(rows.begin, step.products->begin);
      work.others += static_cast<double>(std::max(count, std::int64_t{0}) * (index.size() - step.products->begin));
    }
    return work;
  }
  for (auto row = rows.begin; row < rows.end;) {
    const auto parameter = index.locate(row).parameter;
    const auto& entry = index.entries()[parameter];
    const auto end = std::min(rows.end, entry.offset + entry.size);
    work = work + static_cast<double>(end - row) * plan.parameters[parameter].row_work;
    row = end;
  }
  return work;
}

double cost_of(const LayerPlan& plan, const matrix::ParameterIndex& index, const Rows& rows) {
  return work_of(plan, index, rows).all();
}

std::string lines_of(const LayerPlan& plan, const matrix::ParameterIndex& index) {
  std::string lines;
  for (std::size_t p = 0; p < plan.parameters.size(); ++p) {
    lines += text(p == 0 ? "" : "\n", index.entries()[p].name, ": ",
                  plan.is_factored(p) ? "layers" : text("rows, ", plan.parameters[p].reason));
  }
  return lines;
}

std::string text_of(const LayerPlan& plan) {
  if (!plan.factors_layers()) return "rows";
  struct Sum {
    std::int64_t rows = 0;
    std::int64_t passes = 0;
  };
  std::map<Unit, Sum> sums;
  for (std::size_t s = 1; s < plan.steps.size(); ++s) {
    auto& sum = sums[plan.steps[s].unit];
    sum.rows += plan.steps[s].rows;
    sum.passes += plan.steps[s].passes;
  }
  std::string line = "layers: ";
  for (const auto& [unit, sum] : sums) {
    line += text(sum.rows, " rows from ", sum.passes, " backward passes, each for ",
                 unit == Unit::position ? "all positions of all samples at once"
                 : unit == Unit::sample ? "all samples at once"
                                        : "a position of one sample",
                 "; ");
  }
  return line + text(plan.steps.front().rows, " rows by double-backward");
}

std::vector<std::string> text_of_reasons(const LayerPlan& plan, const matrix::ParameterIndex& index) {
  constexpr std::size_t most = 4;
  std::map<std::string, std::vector<std::string>> names;
  for (std::size_t p = 0; p < plan.parameters.size(); ++p) {
    if (!plan.is_factored(p)) names[plan.parameters[p].reason].push_back(index.entries()[p].name);
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

}  // namespace hessian_mpi::layers
