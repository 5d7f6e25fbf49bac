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

/// What second derivatives do not cross, so that one backward pass serves all of them at once: a position of a sample,
/// a sample, or only the batch.
enum class Unit { position, sample, batch };

/// A call whose parameters' rows are made from its factors.
struct FactoredLayer {
  std::size_t call = 0;               ///< in CapturedForward::calls
  bool samples_last = false;          ///< its tensors go position by position, in each all samples
  std::vector<std::size_t> upstream;  ///< which of the plan's layers its input depends on
};

struct LayerPlan {
  Unit unit = Unit::sample;
  std::vector<FactoredLayer> layers;  ///< in the order of execution; none: all rows are made row by row
  /// For each parameter why its rows are made row by row; empty where they are factored.
  std::vector<std::string> reasons;
  std::int64_t plain_rows = 0;  ///< rows made row by row
  std::int64_t factored_rows = 0;
  std::int64_t passes = 0;  ///< backward passes for the factors of all others
  std::uint64_t bytes = 0;  ///< of the factors that a rank keeps, in the precision of derivatives

  bool is_factored(std::size_t parameter) const { return reasons[parameter].empty(); }
};

/// Not collective; the same on all ranks. Method::rows: no layers. Method::layers: all layers that can be factored
/// without factors larger than the matrix is worth. Method::automatic: those where it saves operations. Runs the model
/// a few times, and tests with some backward passes what second derivatives cross.
LayerPlan plan_layers(const Problem& problem, Method method);

/// The rows of the parameters that are factored, or of those that are not, as runs of neighbours.
std::vector<Rows> rows_of(const LayerPlan& plan, const ParameterIndex& index, bool factored);

/// The plan for people and for the file: a line for each parameter, "fc.weight: layers" or "fc.bias: rows, why".
std::string lines_of(const LayerPlan& plan, const ParameterIndex& index);
/// In one line: "layers: 23045 rows from 5 backward passes, 320 rows row by row", or "rows".
std::string text_of(const LayerPlan& plan);
/// For each reason the parameters whose rows are made row by row: "c1.weight, c1.bias: row by row takes fewer
/// operations".
std::vector<std::string> text_of_reasons(const LayerPlan& plan, const ParameterIndex& index);

}  // namespace hessian_mpi
