#pragma once
/// What a choice of factored layers takes: passes, multiplications and memory, counted, never timed. Internal to the
/// plan of layers.

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "layer_graph.hpp"

namespace hessian_mpi::layers {

/// The layers of a network and what is known of them, to weigh one choice of factored layers against another.
struct Network {
  const network::Problem& problem;
  const LayerGraph& graph;
  std::vector<std::vector<std::size_t>> upstream;  ///< of each call, all calls
};

/// A call that is to be factored, and what its derivatives do not cross.
struct Chosen {
  std::size_t call = 0;
  Unit unit = Unit::sample;
  bool bias = true;  ///< its bias too, where it has one
};
/// In order of execution.
using Choice = std::vector<Chosen>;

Choice without(Choice choice, std::size_t call);

/// The steps of a choice, in the order that they are made in: what crosses more, and what has several positions in a
/// unit, comes first, since in the columns of such layers rows take more. Layers that are made later are in earlier
/// steps too, as columns.
std::vector<LayerStep> steps_of(const Network& network, const Choice& choice, const std::vector<bool>& samples_last);

struct Counts {
  std::int64_t double_backward_rows = 0;
  std::int64_t delta_passes = 0;
  std::int64_t input_passes = 0;
  double assembly = 0;            ///< multiplications to make the factored rows
  std::uint64_t inputs = 0;       ///< numbers in memory: what the layers see,
  std::uint64_t derivatives = 0;  ///< J,
  std::uint64_t outputs = 0;      ///< what outputs have, of layers whose neighbouring rows are of different ones
  std::uint64_t numbers() const { return inputs + derivatives + outputs; }
};
Counts counts_of(const Network& network, const LayerStep& step);
Counts counts_of(const Network& network, const Choice& choice);

/// Of a batch, in the layers that the graph knows.
double multiplications_of_forward(const Network& network);

/// In multiplications.
double cost_of(const Network& network, const Counts& counts);

/// What a single row takes, in multiplications, until it is written: one by double-backward, and for each parameter
/// whose rows a step makes one of those, with its part of the passes.
double cost_of_double_backward_row(const Network& network);
std::map<std::size_t, double> costs_of_rows(const Network& network, const LayerStep& step);

/// For each parameter whose rows a step makes, how many neighbours come of the same passes.
std::map<std::size_t, std::int64_t> rows_together(const Network& network, const LayerStep& step);

std::int64_t parameters_in(const Network& network, const Choice& choice);

/// Whether a bias takes less by double-backward: the passes for an output of several positions are worth it for a
/// weight's rows, but not for a single one, where another rank has those.
bool is_cheaper_without_bias(const Network& network, const Chosen& chosen);

}  // namespace hessian_mpi::layers
