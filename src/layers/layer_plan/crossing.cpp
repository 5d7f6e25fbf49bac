#include "layer_plan/crossing.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

bool has_any(const Tensor& flags) {
  return flags.any().item<bool>();
}

}  // namespace

Crossing::Crossing(const LayerGraph& graph, std::int64_t samples, const std::vector<bool>& has_samples)
    : graph_(graph), samples_(samples) {
  for (std::size_t c = 0; c < count(); ++c) {
    if (has_samples[c]) all_.push_back(c);
  }
}

bool Crossing::has_samples(std::size_t c) const {
  return rows(c) % samples_ == 0 && (!graph_.call(c).convolution || graph_.call(c).output.size(0) == samples_);
}

std::int64_t Crossing::rows(std::size_t c) const {
  return graph_.call(c).output.numel() / outputs_of(graph_.call(c));
}

void Crossing::for_reached(const std::vector<std::size_t>& calls, const RowsOf& which_rows, const Look& look) const {
  const auto masked = [&](const Tensor& rows, std::size_t c) {
    return patternless_.like(rows) * which_rows(c, rows.size(0)).unsqueeze(1).to(rows.device(), rows.scalar_type());
  };
  std::vector<Tensor> of_delta;
  std::vector<Tensor> of_input;
  for (const auto c : calls) {
    const auto& call = graph_.call(c);
    of_delta.push_back(output_from_rows(masked(rows_of(call.output, call), c), call));
    auto& inputs = of_input.emplace_back();
    if (graph_.input_depends(c)) inputs = input_from_rows(masked(rows_of(call.input, call), c), call);
  }
  const auto found = graph_.derivatives_of(calls, of_delta, of_input, all_);
  for (std::size_t k = 0; k < found.size(); ++k) {
    const auto m = all_[k];
    if (found[k].defined()) look(m, (rows_of(found[k], graph_.call(m)) != 0).any(1).cpu());
  }
}

bool Crossing::all_keep_samples() const {
  if (!std::all_of(all_.begin(), all_.end(), [&](std::size_t c) { return has_samples(c); })) return false;
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
  for (std::size_t k = 0; k < found.size(); ++k) {
    if (found[k].defined()) calls.push_back(all_[k]);
  }
  return calls;
}

// Calls whose order their own derivatives decide come first, since they decide it for others.
Separable separable_calls(const Crossing& crossing, const LayerGraph& graph) {
  struct Candidate {
    std::size_t call;
    bool last;
    std::vector<std::array<bool, 2>> keeps;
  };
  if (crossing.all_keep_samples()) {
    return {crossing.calls(), std::vector<bool>(crossing.count(), false)};
  }
  std::vector<std::vector<Candidate>> candidates(crossing.count());
  for (const auto c : crossing.calls()) {
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

std::vector<std::size_t> apart_by_position(const Crossing& crossing, const LayerGraph& graph,
                                           std::vector<std::size_t> calls, const std::vector<bool>& samples_last) {
  std::erase_if(calls, [&](std::size_t c) { return !is_pointwise(graph.call(c)); });
  if (crossing.all_keep_positions(calls, samples_last)) return calls;
  std::vector<std::vector<bool>> keeps(crossing.count());
  for (const auto c : calls) keeps[c] = crossing.keeps_positions(c, samples_last);
  while (true) {
    std::size_t most = 0;
    std::optional<std::size_t> worst;
    for (const auto c : calls) {
      const auto crossings = static_cast<std::size_t>(
          std::count_if(calls.begin(), calls.end(), [&](std::size_t m) { return !keeps[c][m] || !keeps[m][c]; }));
      // The first of several: what comes early is seen by more.
      if (crossings > most) {
        most = crossings;
        worst = c;
      }
    }
    if (!worst) return calls;
    std::erase(calls, *worst);
  }
}

}  // namespace hessian_mpi::layers
