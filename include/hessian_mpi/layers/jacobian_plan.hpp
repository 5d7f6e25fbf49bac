#pragma once
/// What J of a matrix J^T A J (engines/output_map.hpp) takes, row by row of J. Decided by what is exact and by
/// counting, never by timing, ranks or memory.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::layers {

/// Where the columns of a parameter come from: a weight's are the sum over positions of delta times input, a bias' that
/// of delta.
struct JacobianColumns {
  std::size_t call = 0;  ///< in CapturedForward::calls
  bool bias = false;
  bool samples_last = false;  ///< as FactoredLayer has it
  bool product = false;       ///< kept as delta and input, of a weight at one position
  bool by_input = false;      ///< as LayerCall has it
  std::int64_t outputs = 0;   ///< of the layer
  std::int64_t inputs = 0;    ///< columns of its weight
};

struct JacobianPlan {
  std::vector<std::int64_t> outputs;  ///< of each batch: rows of J
  /// How many outputs each sample has, where derivatives of outputs stay with their samples: a backward pass then
  /// serves one output of all samples. 0 where samples interact.
  std::int64_t outputs_of_sample = 0;
  /// Of each parameter; none where its columns take a pass for each output.
  std::vector<std::optional<JacobianColumns>> columns;
  std::int64_t passes = 0;  ///< backward, through a batch
  std::uint64_t bytes = 0;  ///< that a rank keeps, in the precision of derivatives
  bool kept = true;         ///< all batches at once; else each is derived again for each range of rows
  double cost = 0;          ///< of all rows, in multiplications as layers::cost_of has them

  std::int64_t all_outputs() const;
  /// Parameters whose columns take a pass for each output.
  std::vector<std::size_t> others() const;
};

/// Rows that are worth deriving J again for, where it is not kept.
std::int64_t rows_worth_deriving(std::int64_t columns);

/// Not collective; the same on all ranks. For a problem whose matrix is ggn or fisher. Runs the model, and tests with
/// some backward passes what derivatives of its outputs cross. Throws what output_map() throws.
JacobianPlan plan_jacobian(const network::Problem& problem, Entries entries);

/// The steps in which all rows are made so: several where products with many outputs take longer than to bring numbers
/// from one half of the matrix, which is symmetric, to the other; cut between blocks of the whole grid.
LayerPlan plan_products(const network::Problem& problem, const JacobianPlan& jacobian,
                        const matrix::MatrixShape& matrix);

}  // namespace hessian_mpi::layers
