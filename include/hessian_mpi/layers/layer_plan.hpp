#pragma once
/// Which parameters' rows are factored by layer, and which are made by double-backward: decided by what is exact, by
/// what fits into memory, and by counting operations; never by timing, so that it is the same on every rank and in
/// every run.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/base/work.hpp"
#include "hessian_mpi/layers/layer_capture.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::layers {

/// What second derivatives do not cross, so that one backward pass serves all of them at once: only the batch, a
/// sample, or a position of a sample.
enum class Unit { batch, sample, position };

/// A call in a step.
struct FactoredLayer {
  std::size_t call = 0;               ///< in CapturedForward::calls
  bool samples_last = false;          ///< its tensors go position by position, in each all samples
  bool by_row = false;                ///< a pass for each of its rows, else for each of its outputs
  std::vector<std::size_t> upstream;  ///< layers whose rows the step makes and that its input depends on
};

struct Tail;  // src/layers/layer_tail.hpp

/// Rows that are made together, with those of earlier steps as columns: those of one layer from factors, of a few of
/// which each needs little to have the others as columns, or, in all columns, of some that share parameters or one that
/// has few; or, without layers, those by double-backward, or some as products of J (jacobian_plan.hpp).
struct LayerStep {
  Unit unit = Unit::sample;
  std::vector<FactoredLayer> layers;  ///< those whose rows are made, then those that later steps are of
  std::size_t row_layers = 1;         ///< how many of them, if any
  bool whole = false;       ///< a pass for each row gives it in all columns; layers that share parameters add up
  bool halves = true;       ///< half of what a weight has in its own columns is copied; not for the diagonal alone
  std::int64_t copies = 1;  ///< of a batch in one forward: a pass serves so many cotangents, one for each
  std::int64_t rows = 0;    ///< that it makes
  std::int64_t passes = 0;  ///< backward, for its rows
  /// Of what passes give, in the precision of derivatives: with less memory they are made again for each range of rows.
  std::uint64_t bytes_if_there = 0;
  /// The end of the network that its passes need not go through, if any.
  std::shared_ptr<const Tail> tail = nullptr;
  /// Its rows where they are products of J, in the columns from the first of them on: those before are of earlier
  /// steps.
  std::optional<Rows> products = {};
};

/// How the rows of one parameter are made.
struct ParameterPlan {
  std::size_t step = 0;            ///< in LayerPlan::steps
  std::string reason;              ///< why by double-backward; empty where they are factored
  Work row_work{0, 1};             ///< what one row takes, in multiplications
  std::int64_t rows_together = 1;  ///< neighbouring rows that come of the same passes
  /// Where passes for an output serve rows all over the parameter, or, of a bias, of its weight too: how many outputs,
  /// row i being of output i modulo so many. 0: elsewhere, and where each row has a pass of its own.
  std::int64_t outputs = 0;
  std::int64_t outputs_together = 1;          ///< neighbouring outputs that come of the same passes
  std::optional<std::size_t> weight_of = {};  ///< of a bias: the parameter with as many rows for each output, in order
};

struct LayerPlan {
  std::vector<ParameterPlan> parameters;
  std::vector<LayerStep> steps;     ///< the first one by double-backward, all others with layers; or all of products
  std::uint64_t bytes = 0;          ///< of factors that a rank has to keep at a time, in the precision of derivatives
  std::uint64_t bytes_of_tail = 0;  ///< that a rank has whatever its memory, as it has the graph of a pass

  bool factors_layers() const { return steps.size() > 1 && !steps.front().products; }
  bool is_factored(std::size_t parameter) const { return parameters[parameter].step > 0; }
};

/// Not collective; the same on all ranks. Method::rows: no layers. Method::layers: as many as can be factored.
/// Method::automatic: those, or those that keep samples apart, whichever takes fewer operations. Runs the model a few
/// times, and tests with some backward passes what second derivatives cross. For diagonal blocks, or the diagonal
/// of them, each layer has a step of its own.
LayerPlan plan_layers(const network::Problem& problem, Method method, Entries entries = Entries::all);

/// The rows that a step makes, as runs of neighbours.
std::vector<Rows> rows_of(const LayerPlan& plan, const matrix::ParameterIndex& index, std::size_t step);

/// What some rows take, in multiplications; and all of it.
Work work_of(const LayerPlan& plan, const matrix::ParameterIndex& index, const Rows& rows);
double cost_of(const LayerPlan& plan, const matrix::ParameterIndex& index, const Rows& rows);

/// The plan for people and for the file: a line for each parameter, "fc.weight: layers" or "fc.bias: rows, why".
std::string lines_of(const LayerPlan& plan, const matrix::ParameterIndex& index);
/// In one line: "layers: 23045 rows from 5 backward passes, each for all samples at once; 320 rows by
/// double-backward", or
/// "rows".
std::string text_of(const LayerPlan& plan);
/// For each reason the parameters whose rows are made by double-backward: "c1.weight, c1.bias: double-backward takes
/// fewer operations".
std::vector<std::string> text_of_reasons(const LayerPlan& plan, const matrix::ParameterIndex& index);

}  // namespace hessian_mpi::layers
