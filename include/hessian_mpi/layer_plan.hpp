#pragma once
/// Which parameters' rows are factored by layer, and which are made row by row: decided by what is exact, by what fits
/// into memory, and by counting operations; never by timing, so that it is the same on every rank and in every run.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hessian_mpi/layer_capture.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

/// What second derivatives do not cross, so that one backward pass serves all of them at once: only the batch, a
/// sample, or a position of a sample.
enum class Unit { batch, sample, position };

/// A call in a stage.
struct FactoredLayer {
  std::size_t call = 0;               ///< in CapturedForward::calls
  bool samples_last = false;          ///< its tensors go position by position, in each all samples
  bool makes_rows = true;             ///< in this stage; else its parameters are columns only
  bool has_bias = true;               ///< else that is made row by row
  std::vector<std::size_t> upstream;  ///< which of the stage's layers its input depends on, as far as that is needed
};

/// Layers whose rows are made from factors with one kind of unit.
struct LayerStage {
  Unit unit = Unit::sample;
  std::vector<FactoredLayer> layers;  ///< in the order of execution
  std::int64_t copies = 1;            ///< of a batch in one forward: a pass serves so many cotangents, one for each
};

/// The steps in which rows are made, each with what was made before as columns: step 0 row by row, step k by stage k -
/// 1.
struct LayerPlan {
  std::vector<LayerStage> stages;  ///< none: all rows are made row by row
  std::vector<std::size_t> steps;  ///< for each parameter the step that makes its rows
  /// For each parameter why its rows are made row by row; empty where they are factored.
  std::vector<std::string> reasons;
  std::vector<double> row_costs;            ///< for each parameter what one of its rows takes, in multiplications
  std::vector<std::int64_t> rows_together;  ///< for each parameter neighbouring rows that come of the same passes
  std::vector<std::int64_t> rows;           ///< for each step, how many it makes
  std::vector<std::int64_t> passes;         ///< for each stage the backward passes for its factors
  std::uint64_t bytes = 0;           ///< of factors that a rank has to keep at a time, in the precision of derivatives
  std::uint64_t bytes_if_there = 0;  ///< of those that it makes again and again where it has not as much memory

  bool is_factored(std::size_t parameter) const { return steps[parameter] > 0; }
};

/// Not collective; the same on all ranks. Method::rows: no layers. Method::layers: all layers that can be factored
/// without factors larger than the matrix is worth. Method::automatic: those where it saves operations. Runs the model
/// a few times, and tests with some backward passes what second derivatives cross. For diagonal blocks, or the diagonal
/// of them, each layer has a stage of its own.
LayerPlan plan_layers(const Problem& problem, Method method, Entries entries = Entries::all);

/// The rows that a step makes, as runs of neighbours.
std::vector<Rows> rows_of(const LayerPlan& plan, const ParameterIndex& index, std::size_t step);

/// What some rows take, in multiplications.
double cost_of(const LayerPlan& plan, const ParameterIndex& index, const Rows& rows);

/// The plan for people and for the file: a line for each parameter, "fc.weight: layers" or "fc.bias: rows, why".
std::string lines_of(const LayerPlan& plan, const ParameterIndex& index);
/// In one line: "layers: 23045 rows from 5 backward passes, each for all samples at once; 320 rows row by row", or
/// "rows".
std::string text_of(const LayerPlan& plan);
/// For each reason the parameters whose rows are made row by row: "c1.weight, c1.bias: row by row takes fewer
/// operations".
std::vector<std::string> text_of_reasons(const LayerPlan& plan, const ParameterIndex& index);

}  // namespace hessian_mpi
