#pragma once
/// The order of work where rows are factored by layer: the plan's steps, each with the rows of earlier ones as columns.
/// Each step is split over all ranks. Steps of diagonal blocks, or of the diagonal, know nothing of each other.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/run/assemble.hpp"

namespace hessian_mpi::run {

class LayeredAssembly {
 public:
  /// Not collective; the same on all ranks. missing: the blocks to be made. unfactored: makes the rows of the first
  /// step. Problem, plan and that engine must outlive the object.
  LayeredAssembly(const network::Problem& problem, const layers::LayerPlan& plan, const matrix::MatrixShape& matrix,
                  const matrix::BlockList& missing, Precision accumulate, engines::Engine& unfactored,
                  const ranks::Communicator& communicator);
  ~LayeredAssembly();
  LayeredAssembly(LayeredAssembly&&) noexcept;

  /// For each step the blocks that it completes, those with rows of it and of no later step, shared by what their rows
  /// cost.
  const std::vector<matrix::SharedBlocks>& shares() const { return shares_; }

  /// What makes the rows of the first step.
  const engines::Engine& unfactored() const { return unfactored_; }

  /// Bytes that this takes on a rank, beside the buffers of rows.
  std::uint64_t bytes(std::uint64_t factors) const;

  /// Collective. Takes in the rows that later steps need as columns and that the file has, in blocks marked as on_disk,
  /// and makes those of the first step that its own blocks do not make. Before the file is opened for writing. Throws
  /// where it is asked to stop.
  void prepare(const std::filesystem::path& file, const std::vector<file::BlockRecord>& records,
               const ranks::StopPoint& stop);

  /// Collective, after prepare(). Has each step's blocks made by assemble_blocks, as hessian_mpi::assemble() does it,
  /// with the engine of their step. memory: bytes for factors that can be made again.
  using AssembleBlocks = std::function<Assembled(engines::Engine& engine, const matrix::SharedBlocks& blocks)>;
  Assembled assemble(const AssembleBlocks& assemble_blocks, std::uint64_t memory, const ranks::StopPoint& stop);

 private:
  class KeptRows;
  /// A step, as far as it has something to do.
  struct Step {
    std::vector<Rows> rows;                         // that it makes in all
    std::vector<Rows> loose;                        // needed as columns, but outside the part that is to be made
    std::vector<std::vector<Rows>> own;             // for each rank the rows that it makes
    std::vector<Rows> kept;                         // of this rank's those in its blocks of later steps
    std::vector<Rows> beside;                       // and all that it makes beside its blocks
    std::optional<layers::EarlierColumns> columns;  // of the steps before
    bool active = false;                            // some rank makes some of its rows
    bool is_column = false;                         // later steps need its rows
  };
  void share_blocks(const matrix::BlockList& missing);
  void find_rows(std::size_t s);
  std::vector<layers::EarlierColumns*> columns_after(std::size_t s);
  void take_in(std::size_t s, const std::vector<std::int64_t>& rows, engines::Engine& engine,
               const ranks::StopPoint& stop);
  void read_back(const std::filesystem::path& file, const std::vector<file::BlockRecord>& records, std::size_t s,
                 const ranks::StopPoint& stop);

  const network::Problem& problem_;
  const layers::LayerPlan& plan_;
  matrix::MatrixShape matrix_;
  Precision accumulate_;
  const ranks::Communicator& communicator_;
  std::vector<matrix::SharedBlocks> shares_;
  std::vector<Step> steps_;
  engines::Engine& unfactored_;
  std::unique_ptr<KeptRows> kept_;  // rows of earlier steps in this rank's blocks of later steps
};

}  // namespace hessian_mpi::run
