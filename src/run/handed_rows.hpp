#pragma once
/// Rows that a rank makes for the blocks of others. A pass for an output serves rows all over a weight that lies input
/// by input, such as an embedding's, and the row of a bias beside those of its weight: shares of neighbouring rows
/// would take the same passes on several ranks. So each output is one rank's, which makes all these rows of it and
/// hands them to those whose blocks they belong to.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/layer_factors.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/ranks/stop_point.hpp"

namespace hessian_mpi::run {

class HandedRows {
 public:
  /// Rows of one output, so far apart.
  struct Piece {
    std::int64_t output = 0;
    std::int64_t first = 0;
    std::int64_t distance = 1;
    std::int64_t count = 0;
  };
  using Pieces = std::vector<Piece>;

  /// Not collective; the same on all ranks. wanted: for each rank the rows that it is going to need of the step, in
  /// order. earlier: rows of the steps before, whose columns others fill in.
  HandedRows(const layers::LayerPlan& plan, const matrix::ParameterIndex& index, std::size_t step,
             const std::vector<std::vector<Rows>>& wanted, const std::vector<Rows>& earlier,
             const matrix::MatrixShape& matrix);

  /// Of a rank's rows those that are handed to it, from itself too; and those that it makes, output by output.
  const std::vector<Rows>& to_rank(int rank) const { return to_ranks_[static_cast<std::size_t>(rank)]; }
  std::vector<Rows> made_by(int rank) const;
  const Pieces& pieces_of(int rank) const { return made_[static_cast<std::size_t>(rank)]; }
  /// Bytes that a rank needs for them, and the multiplications before any of them is in its blocks: the most of any.
  std::uint64_t bytes() const;
  double cost() const { return cost_; }

  /// Collective. Makes the rows and hands them over. engine: of the step, whose `own` began with made_by(). Throws
  /// where it is asked to stop.
  void make(layers::LayerFactors& engine, const ranks::StopPoint& stop, const ranks::Communicator& communicator);

  /// After make(): whether it has been handed to this rank; and copies some of these rows in some columns, neighbours
  /// each: [rows][columns], of which those of earlier steps are left as they are.
  bool has(std::int64_t row) const;
  void copy(const Rows& rows, const Rows& columns, void* out) const;

 private:
  void share(const Rows& parameter, const layers::ParameterPlan& plan, const std::vector<int>& makers);
  std::vector<Pieces> in_rounds(int rank) const;
  std::int64_t bytes_of_row() const;
  std::vector<char> computed(const Pieces& pieces, layers::LayerFactors& engine) const;
  char* place_of(std::int64_t row);
  void exchange(const std::vector<Pieces>& pieces, const std::vector<char>& made,
                const ranks::Communicator& communicator);

  matrix::MatrixShape matrix_;
  std::vector<Rows> columns_;  // that are made
  std::vector<std::vector<Rows>> to_ranks_;
  std::vector<Pieces> made_;  // by each rank
  double cost_ = 0;
  int rank_ = 0;
  std::vector<char> numbers_;  // of rows handed to this rank, in the columns that are made
};

/// The rows of a step, those that were handed over as they are.
class WithHandedRows final : public engines::Engine {
 public:
  /// engine: makes the others. columns: brings those of earlier steps to whole rows. Both arguments by reference must
  /// outlive the object.
  WithHandedRows(std::unique_ptr<engines::Engine> engine, const HandedRows& handed,
                 const layers::EarlierColumns& columns, std::int64_t all_columns)
      : engine_(std::move(engine)), handed_(handed), columns_(columns), all_columns_(all_columns) {}
  std::string name() const override { return engine_->name(); }
  std::int64_t rows_at_once() const override { return engine_->rows_at_once(); }
  std::uint64_t bytes_per_row(std::int64_t columns) const override { return engine_->bytes_per_row(columns); }
  engines::Passes passes() const override { return engine_->passes(); }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;

 private:
  std::unique_ptr<engines::Engine> engine_;
  const HandedRows& handed_;
  const layers::EarlierColumns& columns_;
  std::int64_t all_columns_;
};

}  // namespace hessian_mpi::run
