#pragma once
/// What a choice of factored layers takes: passes, multiplications and memory, counted, never timed. Internal to the
/// plan of layers.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "layer_graph.hpp"
#include "layer_plan/operator_counts.hpp"

namespace hessian_mpi::layers {

/// The layers of a network and what is known of them, to weigh one choice of factored layers against another.
struct Network {
  const network::Problem& problem;
  const LayerGraph& graph;
  std::vector<std::vector<std::size_t>> upstream;  ///< of each call, all calls
  std::vector<std::size_t> first_calls;        ///< of each parameter, that has it; the number of calls where none has
  std::vector<OperatorCounts> passes;          ///< of each call that may be factored: a pass that starts there
  std::shared_ptr<const Tail> tail = nullptr;  ///< which passes may go round,
  /// and what they take then, with what follows: of calls before it, where that is less.
  std::vector<std::optional<OperatorCounts>> passes_round_tail = {};
};

/// A call that is to be factored, and what its derivatives do not cross.
struct Chosen {
  std::size_t call = 0;
  Unit unit = Unit::sample;
  bool by_row = false;                        ///< a pass for each of its rows, else for each of its outputs
  std::optional<std::size_t> whole_set = {};  ///< of calls whose rows are made in all columns, before others
};
/// In order of execution.
using Choice = std::vector<Chosen>;

/// Without a call, and those of its set.
Choice without(Choice choice, std::size_t call);

/// The steps of a choice, in the order that they are made in: those in all columns first, then what crosses
/// more, and no layer before one that its input depends on.
std::vector<LayerStep> steps_of(const Network& network, const Choice& choice, const std::vector<bool>& samples_last);

struct Counts {
  std::int64_t double_backward_rows = 0;
  std::int64_t passes = 0;
  double factored = 0;        ///< multiplications of these, and of the products of what they find
  std::uint64_t inputs = 0;   ///< numbers in memory: what the layers see,
  std::uint64_t outputs = 0;  ///< and what the outputs have whose rows are made at a time
  std::uint64_t kept = 0;     ///< or those to which rows come back
};
Counts counts_of(const Network& network, const LayerStep& step);
/// Of one of the layers whose rows a step makes; inputs are the step's.
Counts counts_of(const Network& network, const LayerStep& step, std::size_t l);
Counts counts_of(const Network& network, const Choice& choice);
/// The calls that have more numbers of outputs in memory at a time.
std::vector<std::size_t> calls_with_outputs_above(std::uint64_t most, const Network& network, const Choice& choice);

/// All costs are in multiplications of LibTorch's products; these are what other things have been measured to take on
/// networks of all kinds. An operator that is called in a pass; a number that it reads or writes.
constexpr double operator_call = 3e4;
constexpr double operator_number = 3.5;
/// A pass beside its products, where operators are not counted.
constexpr double pass_overhead = 5e5;
/// A multiplication in tiles.
constexpr double tile_multiplication = 0.35;
/// And for a row by itself, which reads the inputs of all layers for products of few rows: where rows of different
/// layers are compared. Not for a choice, which weighs it against sums over positions: those take longer than is
/// counted for them, too, and with this alone a choice is worse.
constexpr double multiplication_for_a_row = 1;
/// In a sum over positions, which reads what passes have found for some rows at a time, or for one.
constexpr double summed_for_rows = 1;
constexpr double summed_for_a_row = 5;
/// For each number of a row: to look at it, to write it.
constexpr double written_number = 40;

/// In one of so many copies of a batch.
double cost_of_pass(const OperatorCounts& pass, std::int64_t copies);

/// Of a batch, in the layers that were seen.
double multiplications_of_forward(const CapturedForward& forward);

/// In multiplications.
double cost_of(const Network& network, const Counts& counts);

/// What a single row takes, in multiplications, until it is written: one by double-backward, and one of a layer's
/// weight or bias that a step makes, with its part of the passes.
Work work_of_double_backward_row(const Network& network);
struct WorkOfRow {
  Work of_weight;
  Work of_bias;
};
/// handed: rows of a bias are made where those of its weight are (see ParameterPlan::outputs).
WorkOfRow work_of_row(const Network& network, const LayerStep& step, std::size_t l, bool handed);

/// How many neighbouring rows of a layer come of the same passes.
struct RowsTogether {
  std::int64_t of_weight;
  std::int64_t of_bias;
};
RowsTogether rows_together(const Network& network, const LayerStep& step, std::size_t l);

/// Of a layer ParameterPlan::outputs, and how many of these come of the same passes.
struct OutputsOfRows {
  std::int64_t of_weight = 0;
  std::int64_t of_bias = 0;
  std::int64_t together = 1;
};
OutputsOfRows outputs_of_rows(const Network& network, const LayerStep& step, std::size_t l);

std::int64_t parameters_in(const Network& network, const Choice& choice);

}  // namespace hessian_mpi::layers
