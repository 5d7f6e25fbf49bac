#pragma once
/// The order of work: the plan's steps, layers or products of J, each with the rows of earlier ones as columns.
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

class HandedRows;  // src/run/handed_rows.hpp

class LayeredAssembly {
 public:
  /// Not collective; the same on all ranks. missing: the blocks to be made. unfactored: makes the rows of the first
  /// step, and, where the plan has products of J, of all. Problem, plan and that engine must outlive the object.
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

  /// Whether a step that factors layers makes rows.
  bool factors_layers() const;
  /// Bytes that rows of earlier steps take on a rank as columns, where all of them are kept in memory.
  std::uint64_t bytes_of_columns() const;
  /// Bytes of those that lie outside of the part that is to be made, or in its blocks of later steps: these are kept.
  std::uint64_t bytes_beside() const;

  /// Bytes of rows that another rank made for this one's blocks, at most; as far as assemble() has memory for them.
  std::uint64_t bytes_handed() const;
  /// Bytes of what passes give for a step, at most; and the memory with which assemble() makes each pass once.
  std::uint64_t bytes_of_passes() const;
  std::uint64_t memory_for_passes_once() const;

  /// Collective. Takes in the rows that later steps need as columns and that the file has, in blocks marked as on_disk,
  /// and makes those of the first step that its own blocks do not make. Before the file is opened for writing. file:
  /// where it lies now. memory:
  /// bytes for columns: where it is too little for all of them on any rank, they are read back from the file, for some
  /// rows at a time. Throws where it is asked to stop.
  using FilePath = std::function<std::filesystem::path()>;
  void prepare(const FilePath& file, const std::vector<file::BlockRecord>& records, std::uint64_t memory,
               const ranks::StopPoint& stop);

  /// After prepare(): whether columns are read back from the file.
  bool reads_back() const { return columns_in_file_; }

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
    std::vector<std::vector<Rows>> beside;          // for each rank all that it makes beside its blocks
    std::optional<layers::EarlierColumns> columns;  // of the steps before
    std::unique_ptr<HandedRows> handed;             // where ranks make rows for each other
    bool active = false;                            // some rank makes some of its rows
    bool is_column = false;                         // later steps need its rows
    std::int64_t rounds = 1;                        // in which its rows get their columns and are made
  };
  bool has_rows_of_parameters() const { return matrix_.entries != Entries::of_samples; }
  std::vector<Rows> in_part(const std::vector<Rows>& rows) const;
  void share_blocks(const matrix::BlockList& missing);
  void find_rows(std::size_t s);
  std::vector<layers::EarlierColumns*> columns_after(std::size_t s);
  void choose_rounds(std::uint64_t memory);
  matrix::SharedBlocks blocks_of_round(std::size_t s, std::int64_t round) const;
  std::vector<Rows> beside_in_round(std::size_t s, std::int64_t round, int rank) const;
  void exchange(std::size_t s, std::int64_t round);
  void take_in(std::size_t s, const std::vector<std::int64_t>& rows, engines::Engine& engine,
               const ranks::StopPoint& stop);
  void read_back(const std::vector<file::BlockRecord>& records, std::size_t s, const ranks::StopPoint& stop);
  bool may_hand_over(const Step& step) const;
  std::uint64_t bytes_of_passes(std::size_t s) const;
  double share_of_passes(std::size_t s, const matrix::BlockList& blocks) const;
  std::unique_ptr<engines::Engine> engine_of(std::size_t s, std::uint64_t memory, const ranks::StopPoint& stop);

  const network::Problem& problem_;
  const layers::LayerPlan& plan_;
  matrix::MatrixShape matrix_;
  Precision accumulate_;
  const ranks::Communicator& communicator_;
  std::vector<matrix::SharedBlocks> shares_;
  std::vector<Step> steps_;
  engines::Engine& unfactored_;
  std::unique_ptr<KeptRows> kept_;  // rows of earlier steps in this rank's blocks of later steps
  FilePath file_;
  bool columns_in_file_ = false;
};

}  // namespace hessian_mpi::run
