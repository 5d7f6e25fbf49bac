#pragma once
/// All layers that can be factored are, without a file: for tests that compare ways of deriving rows.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/layer_factors.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi {

/// The engine can be asked for any row, in any order; the problem must outlive it.
class AllLayers final : public engines::Engine {
 public:
  AllLayers(const network::Problem& problem, std::uint64_t memory)
      : problem_(problem),
        memory_(memory),
        plan_(layers::plan_layers(problem, Method::layers)),
        world_(ranks::Communicator::world()),
        unfactored_(make_unfactored(problem)) {}
  std::string name() const override { return "layers"; }
  std::int64_t rows_at_once() const override { return 1; }
  std::uint64_t bytes_per_row(std::int64_t /*columns*/) const override { return 0; }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override {
    if (engines_.empty()) prepare(storage);
    const auto bytes_of_row = columns.count() * static_cast<std::int64_t>(bytes_of(storage));
    for (auto row = rows.begin; row < rows.end;) {  // neighbours that are made in the same step
      Rows some{row, row + 1};
      while (some.end < rows.end && step_of(some.end) == step_of(row)) ++some.end;
      engines_[step_of(row)]->compute(some, columns, storage,
                                      static_cast<char*>(out) + (row - rows.begin) * bytes_of_row, advance);
      row = some.end;
    }
  }

 private:
  static std::unique_ptr<engines::Engine> make_unfactored(const network::Problem& problem) {
    if (problem.matrix() == Matrix::hessian) return std::make_unique<engines::DoubleBackward>(problem);
    return std::make_unique<engines::JacobianRows>(problem, problem.matrix());
  }
  std::size_t step_of(std::int64_t row) const { return plan_.parameters[problem_.index().locate(row).parameter].step; }

  // Each step is made whole, once, and noted for those after it.
  void prepare(Precision storage) {
    const auto n = problem_.index().size();
    const auto bytes_of_row = n * static_cast<std::int64_t>(bytes_of(storage));
    std::vector<char> made(static_cast<std::size_t>(n * bytes_of_row));
    engines_.push_back(unfactored_.get());
    std::vector<Rows> earlier;
    for (std::size_t s = 1; s < plan_.steps.size(); ++s) {
      for (const auto& run : rows_of(plan_, problem_.index(), s - 1)) {
        engines_[s - 1]->compute(run, {0, n}, storage, made.data() + run.begin * bytes_of_row, [](double) {});
        append_in_order(run, earlier);
      }
      const auto own = rows_of(plan_, problem_.index(), s);
      auto& columns = columns_.emplace_back(
          std::make_unique<layers::EarlierColumns>(earlier, std::vector<std::vector<Rows>>{own}, 0, storage));
      for (const auto& run : earlier) columns->note(run, made.data() + run.begin * bytes_of_row, n);
      columns->exchange(world_);
      factors_.push_back(std::make_unique<layers::LayerFactors>(problem_, plan_.steps[s], own, *columns, *unfactored_,
                                                                problem_.precision(), memory_));
      engines_.push_back(factors_.back().get());
    }
  }

  static void append_in_order(const Rows& run, std::vector<Rows>& runs) {
    runs.insert(std::upper_bound(runs.begin(), runs.end(), run, [](auto a, auto b) { return a.begin < b.begin; }), run);
  }

  const network::Problem& problem_;
  std::uint64_t memory_;
  layers::LayerPlan plan_;
  ranks::Communicator world_;
  std::unique_ptr<engines::Engine> unfactored_;
  std::vector<std::unique_ptr<layers::EarlierColumns>> columns_;
  std::vector<std::unique_ptr<layers::LayerFactors>> factors_;
  std::vector<engines::Engine*> engines_;  // of each step
};

}  // namespace hessian_mpi
