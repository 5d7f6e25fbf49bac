#pragma once
/// The order of work where rows are factored by layer: first the blocks that are made row by row, whose rows are
/// columns of all others, then the others. Each phase is split over all ranks.

#include <filesystem>
#include <optional>
#include <vector>

#include "hessian_mpi/assemble.hpp"
#include "hessian_mpi/double_backward.hpp"
#include "hessian_mpi/layer_plan.hpp"
#include "hessian_mpi/plain_columns.hpp"
#include "hessian_mpi/problem.hpp"

namespace hessian_mpi {

class LayeredAssembly {
 public:
  /// Not collective; the same on all ranks. missing: the blocks to be made. Problem and plan must outlive the object.
  LayeredAssembly(const Problem& problem, const LayerPlan& plan, const MatrixShape& matrix, const BlockList& missing,
                  Precision accumulate, const Communicator& communicator);

  /// Blocks that are made row by row, then those that hold factored rows.
  const std::vector<BlockList>& phases() const { return phases_; }

  /// What makes the plain rows.
  const Engine& row_by_row() const { return row_by_row_; }

  /// Bytes that this takes on a rank, beside the buffers of rows.
  std::uint64_t bytes(std::uint64_t factors) const;

  /// Collective. Takes in the rows that others need as columns and that the phases do not make: reads those that the
  /// file has, marked as on_disk, and makes the others. Before the file is opened for writing. Returns the reason where
  /// it was asked to stop.
  int prepare(const std::filesystem::path& file, const std::vector<BlockRecord>& records, const StopRequest& stop);

  /// Collective, after prepare(). As hessian_mpi::assemble(), for both phases. memory: bytes for factors that can be
  /// made again.
  Assembled assemble(std::int64_t blocks_at_once, std::uint64_t memory, HessianWriter& writer, Checkpoint& checkpoint,
                     const StopRequest& stop, Progress& progress);

 private:
  bool factors_needed() const { return !phases_[1].empty(); }

  const Problem& problem_;
  const LayerPlan& plan_;
  MatrixShape matrix_;
  Precision accumulate_;
  const Communicator& communicator_;
  std::vector<BlockList> phases_;
  std::vector<Rows> plain_;  // rows that are made row by row
  std::vector<Rows> loose_;  // those of them that phase 0 does not make
  std::vector<Rows> own_;    // factored rows of this rank
  std::optional<PlainColumns> columns_;
  DoubleBackward row_by_row_;
};

}  // namespace hessian_mpi
