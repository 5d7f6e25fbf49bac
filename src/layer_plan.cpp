#include "hessian_mpi/layer_plan.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <random>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/printable.hpp"
#include "layer_factors/layer_graph.hpp"
#include "layer_factors/layer_tensors.hpp"

namespace hessian_mpi {
namespace {

using torch::Tensor;

// --- What second derivatives cross -----------------------------------------------------------------------------------

// Random cotangents without a draw from LibTorch's generator, which networks draw from.
Tensor random_like(const Tensor& tensor) {
  std::mt19937 random(20260611);
  std::uniform_real_distribution<double> any(0.5, 1.5);
  Tensor numbers = at::empty({tensor.numel()}, at::kDouble);
  std::generate_n(numbers.data_ptr<double>(), tensor.numel(), [&] { return any(random); });
  return numbers.reshape(tensor.sizes()).to(tensor.scalar_type());
}

// Runs step for sets of numbers below count, such that for any two of them one set has the first and not the second.
// step gets a function from numbers (int64) to whether they are in the set.
void for_separating_sets(std::int64_t count,
                         const std::function<void(const std::function<Tensor(const Tensor&)>&)>& step) {
  const int bits = std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(count - 1, 0)));
  for (int bit = 0; bit < bits; ++bit) {
    for (const std::int64_t wanted : {0, 1}) {
      step([=](const Tensor& numbers) { return numbers.__rshift__(bit).__and__(1) == wanted; });
    }
  }
}

bool has_any(const Tensor& flags) {
  return flags.any().item<bool>();
}

/// Tests by backward passes from some samples, or some positions, whether derivatives reach others.
class Crossing {
 public:
  Crossing(const LayerGraph& graph, std::int64_t samples) : graph_(graph), samples_(samples) {
    for (std::size_t c = 0; c < count(); ++c) all_.push_back(c);
  }
  std::size_t count() const { return graph_.forward().calls.size(); }

  /// Whether rows of the call can be counted by sample at all.
  bool has_samples(std::size_t c) const {
    return rows(c) % samples_ == 0 && (!graph_.call(c).convolution || graph_.call(c).output.size(0) == samples_);
  }
  /// Whether derivatives stay with each sample in all calls, all with their samples first: mostly so, and soon told.
  bool all_keep_samples() const;
  /// Whether they stay with each position of each sample among these calls, in the order given.
  bool all_keep_positions(const std::vector<std::size_t>& calls, const std::vector<bool>& samples_last) const;
  /// Whether derivatives of one call's delta and input, with its samples last or first, stay with each sample in all
  /// other calls: for each call and each of its two orders.
  std::vector<std::array<bool, 2>> keeps_samples(std::size_t c, bool samples_last) const;
  /// Whether they stay with each position of each sample, for each call in the order given.
  std::vector<bool> keeps_positions(std::size_t c, const std::vector<bool>& samples_last) const;
  /// Calls whose outputs the input of a call depends on.
  std::vector<std::size_t> upstream(std::size_t c) const;

 private:
  std::int64_t rows(std::size_t c) const { return graph_.call(c).output.numel() / outputs_of(graph_.call(c)); }
  LayerOrder order(bool samples_last) const { return {Unit::sample, samples_, samples_last}; }
  using RowsOf = std::function<Tensor(std::size_t call, std::int64_t rows)>;
  using Look = std::function<void(std::size_t call, const Tensor& reached)>;
  // Derivatives, from some rows of the deltas and inputs of calls, by all outputs; which_rows: of a call's so many
  // rows.
  void for_reached(const std::vector<std::size_t>& calls, const RowsOf& which_rows, const Look& look) const;

  const LayerGraph& graph_;
  std::int64_t samples_;
  std::vector<std::size_t> all_;
};

void Crossing::for_reached(const std::vector<std::size_t>& calls, const RowsOf& which_rows, const Look& look) const {
  const auto masked = [&](const Tensor& rows, std::size_t c) {
    return random_like(rows) * which_rows(c, rows.size(0)).unsqueeze(1).to(rows.scalar_type());
  };
  std::vector<Tensor> of_delta;
  std::vector<Tensor> of_input;
  for (const auto c : calls) {
    const auto& call = graph_.call(c);
    of_delta.push_back(output_from_rows(masked(rows_of(call.output, call), c), call));
    of_input.push_back(input_from_rows(masked(rows_of(call.input, call), c), call));
  }
  const auto found = graph_.derivatives_of(calls, of_delta, of_input, all_);
  for (std::size_t m = 0; m < found.size(); ++m) {
    if (found[m].defined()) look(m, (rows_of(found[m], graph_.call(m)) != 0).any(1));
  }
}

bool Crossing::all_keep_samples() const {
  for (std::size_t c = 0; c < count(); ++c) {
    if (!has_samples(c)) return false;
  }
  bool keep = true;
  for_separating_sets(samples_, [&](const auto& contains) {
    if (!keep) return;
    const auto which_rows = [&](std::size_t, std::int64_t n) { return contains(sample_of_rows(n, order(false))); };
    for_reached(all_, which_rows, [&](std::size_t, const Tensor& reached) {
      keep = keep && !has_any(reached & ~contains(sample_of_rows(reached.size(0), order(false))));
    });
  });
  return keep;
}

bool Crossing::all_keep_positions(const std::vector<std::size_t>& calls, const std::vector<bool>& samples_last) const {
  if (calls.empty()) return true;
  const auto positions = rows(calls.front()) / samples_;
  for (const auto c : calls) {
    if (rows(c) != rows(calls.front())) return false;
  }
  bool keep = true;
  for_separating_sets(positions, [&](const auto& contains) {
    if (!keep) return;
    const auto which_rows = [&](std::size_t c, std::int64_t n) {
      return contains(position_of_rows(n, order(samples_last[c])));
    };
    for_reached(calls, which_rows, [&](std::size_t m, const Tensor& reached) {
      if (std::find(calls.begin(), calls.end(), m) == calls.end()) return;
      keep = keep && !has_any(reached & ~contains(position_of_rows(reached.size(0), order(samples_last[m]))));
    });
  });
  return keep;
}

std::vector<std::array<bool, 2>> Crossing::keeps_samples(std::size_t c, bool samples_last) const {
  std::vector<std::array<bool, 2>> keeps(count(), {true, true});
  for_separating_sets(samples_, [&](const auto& contains) {
    const auto which_rows = [&](std::size_t, std::int64_t n) {
      return contains(sample_of_rows(n, order(samples_last)));
    };
    for_reached({c}, which_rows, [&](std::size_t m, const Tensor& reached) {
      for (const bool last : {false, true}) {
        const bool countable = has_samples(m) && (!last || !graph_.call(m).convolution);
        if (countable && !has_any(reached & ~contains(sample_of_rows(reached.size(0), order(last))))) continue;
        keeps[m][last ? 1 : 0] = false;
      }
    });
  });
  return keeps;
}

std::vector<bool> Crossing::keeps_positions(std::size_t c, const std::vector<bool>& samples_last) const {
  std::vector<bool> keeps(count(), true);
  const auto positions = rows(c) / samples_;
  for (std::size_t m = 0; m < count(); ++m) keeps[m] = rows(m) == rows(c);
  for_separating_sets(positions, [&](const auto& contains) {
    const auto which_rows = [&](std::size_t, std::int64_t n) {
      return contains(position_of_rows(n, order(samples_last[c])));
    };
    for_reached({c}, which_rows, [&](std::size_t m, const Tensor& reached) {
      if (!keeps[m]) return;
      const auto own = contains(position_of_rows(reached.size(0), order(samples_last[m])));
      keeps[m] = !has_any(reached & ~own);
    });
  });
  return keeps;
}

std::vector<std::size_t> Crossing::upstream(std::size_t c) const {
  const auto found = graph_.input_derivatives(c, at::ones_like(graph_.call(c).input), all_);
  std::vector<std::size_t> calls;
  for (std::size_t m = 0; m < found.size(); ++m) {
    if (found[m].defined()) calls.push_back(m);
  }
  return calls;
}

// The calls among which derivatives stay with each sample, and for each whether its samples go last.
struct Separable {
  std::vector<std::size_t> calls;
  std::vector<bool> samples_last;  // of all calls
};

// Calls whose order their own derivatives decide come first, since they decide it for others.
Separable separable_calls(const Crossing& crossing, const LayerGraph& graph) {
  struct Candidate {
    std::size_t call;
    bool last;
    std::vector<std::array<bool, 2>> keeps;
  };
  if (crossing.all_keep_samples()) {
    Separable all{{}, std::vector<bool>(crossing.count(), false)};
    for (std::size_t c = 0; c < crossing.count(); ++c) all.calls.push_back(c);
    return all;
  }
  std::vector<std::vector<Candidate>> candidates(crossing.count());
  for (std::size_t c = 0; c < crossing.count(); ++c) {
    if (!crossing.has_samples(c)) continue;
    for (const bool last : {false, true}) {
      if (last && graph.call(c).convolution) continue;
      auto keeps = crossing.keeps_samples(c, last);
      if (keeps[c][last ? 1 : 0]) candidates[c].push_back({c, last, std::move(keeps)});
    }
  }
  std::vector<std::size_t> order(crossing.count());
  for (std::size_t c = 0; c < order.size(); ++c) order[c] = c;
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return candidates[a].size() < candidates[b].size(); });
  std::vector<const Candidate*> chosen;
  for (const auto c : order) {
    const auto fits = [&](const Candidate& candidate) {
      return std::all_of(chosen.begin(), chosen.end(), [&](const Candidate* other) {
        return candidate.keeps[other->call][other->last ? 1 : 0] &&
               other->keeps[candidate.call][candidate.last ? 1 : 0];
      });
    };
    const auto found = std::find_if(candidates[c].begin(), candidates[c].end(), fits);
    if (found != candidates[c].end()) chosen.push_back(&*found);
  }
  Separable result{{}, std::vector<bool>(crossing.count(), false)};
  for (const auto* candidate : chosen) {
    result.calls.push_back(candidate->call);
    result.samples_last[candidate->call] = candidate->last;
  }
  std::sort(result.calls.begin(), result.calls.end());
  return result;
}

// --- What it costs ---------------------------------------------------------------------------------------------------

/// The layers of a network and what is known of them, to weigh one choice of factored layers against another.
struct Network {
  const Problem& problem;
  const LayerGraph& graph;
  std::vector<std::vector<std::size_t>> upstream;  // of each call, all calls
};

using Choice = std::vector<std::size_t>;  // factored calls, in order

std::int64_t parameters_in(const Network& network, std::size_t c) {
  const auto& call = network.graph.call(c);
  std::int64_t count = 0;
  for (const auto& parameter : {call.weight, call.bias}) {
    if (parameter) count += network.problem.parameters()[*parameter].numel();
  }
  return count;
}

std::vector<std::size_t> upstream_in(const Network& network, std::size_t c, const Choice& choice) {
  std::vector<std::size_t> found;
  // A bias alone has no use for what the input depends on.
  if (!network.graph.call(c).weight) return found;
  std::copy_if(choice.begin(), choice.end(), std::back_inserter(found), [&](std::size_t other) {
    const auto& above = network.upstream[c];
    return std::find(above.begin(), above.end(), other) != above.end();
  });
  return found;
}

struct Counts {
  std::int64_t plain_rows = 0;
  std::int64_t delta_passes = 0;
  std::int64_t input_passes = 0;
  double assembly = 0;        // multiplications to make the factored rows
  std::uint64_t numbers = 0;  // kept in memory
};

Counts counts_of(const Network& network, const Choice& choice, Unit unit) {
  const LayerOrder order{unit, network.problem.batch_size(), false};
  const auto batches = network.problem.batches();
  Counts counts;
  counts.plain_rows = network.problem.index().size();
  double width = 0;  // columns of factored layers, each times its positions
  for (const auto c : choice) {
    width += static_cast<double>(parameters_in(network, c) * positions_of(network.graph.call(c), order));
  }
  for (const auto c : choice) {
    const auto& call = network.graph.call(c);
    const auto positions = positions_of(call, order);
    const auto places = units_of(call, order) * batches * positions;
    counts.plain_rows -= parameters_in(network, c);
    counts.delta_passes += outputs_of(call) * positions;
    counts.assembly += static_cast<double>(parameters_in(network, c)) * static_cast<double>(places) *
                           static_cast<double>(network.problem.index().size()) +
                       static_cast<double>(outputs_of(call) * places) * width;
    counts.numbers += static_cast<std::uint64_t>(places * weight_columns(call) * groups_of(call));
    const auto above = upstream_in(network, c, choice);
    const auto elements = call.input.numel() / units_of(call, order);
    if (!above.empty()) counts.input_passes += elements;
    for (const auto m : above) {
      counts.numbers += static_cast<std::uint64_t>(elements * network.graph.call(m).output.numel() * batches);
    }
  }
  return counts;
}

// Multiplications of a pass: for what a pass is beside matrix products, as many as a core does in that time.
constexpr double pass_overhead = 4e6;
// In the products of a forward: what the passes have been measured to take, and tiles against LibTorch's small
// products.
constexpr double plain_row_forwards = 6;
constexpr double delta_pass_forwards = 4.5;
constexpr double input_pass_forwards = 2;
constexpr double tile_multiplication = 0.5;

double cost_of(const Network& network, const Counts& counts) {
  double forward = 0;
  for (const auto& call : network.graph.forward().calls) {
    forward += static_cast<double>(call.output.numel() * weight_columns(call));
  }
  forward *= static_cast<double>(network.problem.batches());
  const auto passes = [&](std::int64_t count, double forwards) {
    return static_cast<double>(count) * (forwards * forward + pass_overhead);
  };
  return passes(counts.plain_rows, plain_row_forwards) + passes(counts.delta_passes, delta_pass_forwards) +
         passes(counts.input_passes, input_pass_forwards) + tile_multiplication * counts.assembly;
}

Choice without(Choice choice, std::size_t call) {
  std::erase(choice, call);
  return choice;
}

// Leaves layers out one by one as long as that makes the whole cheaper.
Choice cheapest(const Network& network, Choice choice, Unit unit, std::vector<std::string>& why) {
  double cost = cost_of(network, counts_of(network, choice, unit));
  while (!choice.empty()) {
    std::size_t best = choice.front();
    double least = cost;
    for (const auto c : choice) {
      const double other = cost_of(network, counts_of(network, without(choice, c), unit));
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
Choice fitting(const Network& network, Choice choice, Unit unit, std::vector<std::string>& why) {
  const auto bytes = [&](const Choice& some) {
    return counts_of(network, some, unit).numbers * bytes_of(network.problem.precision());
  };
  while (!choice.empty() && bytes(choice) > largest_factors) {
    const auto largest = *std::min_element(choice.begin(), choice.end(), [&](auto a, auto b) {
      return bytes(without(choice, a)) < bytes(without(choice, b));
    });
    choice = without(choice, largest);
    why[largest] = "its factors would take more than 8 GB";
  }
  return choice;
}

// --- The choice ------------------------------------------------------------------------------------------------------

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
  const Tensor expected = graph.gradient(*call.weight).reshape({outputs_of(call), -1});
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
    const auto samples = std::min(problem.batch_size(), problem.samples() - b * problem.batch_size());
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

struct Proposal {
  Unit unit = Unit::sample;
  Choice choice;
  std::vector<std::string> why;  // of each call that is not chosen
  double cost = 0;
};

// Of calls that are to keep positions apart, those that do so among each other.
Choice apart_by_position(const Crossing& crossing, const LayerGraph& graph, Choice choice,
                         const std::vector<bool>& samples_last, std::vector<std::string>& why) {
  std::erase_if(choice, [&](std::size_t c) {
    if (!is_pointwise(graph.call(c))) why[c] = "it sees several positions at once";
    return !is_pointwise(graph.call(c));
  });
  if (crossing.all_keep_positions(choice, samples_last)) return choice;
  std::vector<std::vector<bool>> keeps(crossing.count());
  for (const auto c : choice) keeps[c] = crossing.keeps_positions(c, samples_last);
  while (true) {
    std::size_t most = 0;
    std::optional<std::size_t> worst;
    for (const auto c : choice) {
      const auto crossings = static_cast<std::size_t>(
          std::count_if(choice.begin(), choice.end(), [&](std::size_t m) { return !keeps[c][m] || !keeps[m][c]; }));
      // The first of several: what comes early is seen by more.
      if (crossings > most) {
        most = crossings;
        worst = c;
      }
    }
    if (!worst) return choice;
    choice = without(choice, *worst);
    why[*worst] = "its positions interact";
  }
}

Proposal proposal(const Network& network, Unit unit, Choice choice, std::vector<std::string> why, Method method) {
  choice = fitting(network, std::move(choice), unit, why);
  if (method == Method::automatic) choice = cheapest(network, std::move(choice), unit, why);
  const double cost = cost_of(network, counts_of(network, choice, unit));
  return {unit, std::move(choice), std::move(why), cost};
}

std::int64_t parameters_in(const Network& network, const Choice& choice) {
  std::int64_t count = 0;
  for (const auto c : choice) count += parameters_in(network, c);
  return count;
}

Proposal best_proposal(const Network& network, const Crossing& crossing, const Choice& sound, Method method,
                       std::vector<bool>& samples_last) {
  const auto& problem = network.problem;
  const auto separable = separable_calls(crossing, network.graph);
  samples_last = separable.samples_last;
  std::vector<std::string> why(crossing.count());
  Choice by_sample;
  for (const auto c : sound) {
    const bool found = std::find(separable.calls.begin(), separable.calls.end(), c) != separable.calls.end();
    if (found) {
      by_sample.push_back(c);
    } else {
      why[c] = "its samples interact";
    }
  }
  std::vector<Proposal> proposals{proposal(network, Unit::sample, by_sample, why, method)};
  auto why_not = why;
  const auto by_position = apart_by_position(crossing, network.graph, by_sample, samples_last, why_not);
  proposals.push_back(proposal(network, Unit::position, by_position, why_not, method));
  if (problem.samples() % problem.batch_size() == 0) {
    proposals.push_back(proposal(network, Unit::batch, sound, std::vector<std::string>(crossing.count()), method));
  }
  const auto better = [&](const Proposal& a, const Proposal& b) {
    // Asked for layers, the user gets as many as there are.
    if (method == Method::layers && parameters_in(network, a.choice) != parameters_in(network, b.choice)) {
      return parameters_in(network, a.choice) > parameters_in(network, b.choice);
    }
    return a.cost < b.cost;
  };
  return *std::min_element(proposals.begin(), proposals.end(), better);
}

LayerPlan all_row_by_row(const Problem& problem, const std::string& reason) {
  LayerPlan plan;
  plan.reasons.assign(problem.parameters().size(), reason);
  plan.plain_rows = problem.index().size();
  return plan;
}

LayerPlan plan_of(const Network& network, const Proposal& proposal, const std::vector<bool>& samples_last) {
  const auto& calls = network.graph.forward().calls;
  LayerPlan plan;
  plan.unit = proposal.unit;
  plan.reasons = network.graph.forward().reasons;
  for (std::size_t c = 0; c < calls.size(); ++c) {
    for (const auto& parameter : {calls[c].weight, calls[c].bias}) {
      if (parameter) plan.reasons[*parameter] = proposal.why[c];
    }
  }
  const auto& choice = proposal.choice;
  for (const auto c : choice) {
    FactoredLayer layer{c, proposal.unit != Unit::batch && samples_last[c], {}};
    for (const auto m : upstream_in(network, c, choice)) {
      layer.upstream.push_back(static_cast<std::size_t>(std::find(choice.begin(), choice.end(), m) - choice.begin()));
    }
    plan.layers.push_back(std::move(layer));
  }
  const auto counts = counts_of(network, choice, proposal.unit);
  plan.plain_rows = counts.plain_rows;
  plan.factored_rows = network.problem.index().size() - counts.plain_rows;
  plan.bytes = counts.numbers * bytes_of(network.problem.precision());
  plan.passes = counts.delta_passes + counts.input_passes;
  return plan;
}

}  // namespace

LayerPlan plan_layers(const Problem& problem, Method method) {
  if (method == Method::rows) return all_row_by_row(problem, "--method rows");
  const LayerGraph graph(problem, 0);
  if (!same_in_all_batches(problem, graph.forward())) {
    return all_row_by_row(problem, "the network runs other layers in other batches");
  }
  Network network{problem, graph, {}};
  const Crossing crossing(graph, problem.batch_size());
  Choice sound;
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
  std::vector<bool> samples_last;
  auto best = best_proposal(network, crossing, sound, method, samples_last);
  for (std::size_t c = 0; c < unsound.size(); ++c) {
    if (!unsound[c].empty()) best.why[c] = unsound[c];
  }
  return plan_of(network, best, samples_last);
}

std::vector<Rows> rows_of(const LayerPlan& plan, const ParameterIndex& index, bool factored) {
  std::vector<Rows> runs;
  for (std::size_t p = 0; p < index.entries().size(); ++p) {
    const auto& entry = index.entries()[p];
    if (plan.is_factored(p) == factored) append_run({entry.offset, entry.offset + entry.size}, runs);
  }
  return runs;
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
  if (plan.layers.empty()) return "rows";
  const auto* served = plan.unit == Unit::position ? "all positions of all samples at once"
                       : plan.unit == Unit::sample ? "all samples at once"
                                                   : "a position of one sample";
  return text("layers: ", plan.factored_rows, " rows from ", plan.passes, " backward passes, each for ", served, "; ",
              plan.plain_rows, " rows row by row");
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
