#pragma once
/// Rows of a matrix J^T A J (engines/output_map.hpp) as products. J [K, N] has a row for each output k of each sample.
/// For a parameter of a layer that row is sum_t delta[k, t, p] a[t, q], with delta the derivative of the output by what
/// the layer returns: one backward pass gives it for one output of all samples at once. A is kept as far as it has
/// numbers: for each sample the outputs with each other. A number of the matrix is a sum over outputs, in pieces whose
/// sums are added up in float64.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/jacobian_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::layers {

class JacobianFactors final : public engines::Engine {
 public:
  /// Collective over the communicator, over whose ranks the passes are split where J is kept. accumulate: precision of
  /// J and of the sums of a piece. Problem and plan must outlive the engine. between: called before the first pass and
  /// after each second of them, by all ranks at the same point; throws, on all of them, to end it.
  JacobianFactors(
      const network::Problem& problem, const JacobianPlan& plan, Precision accumulate,
      const ranks::Communicator& communicator, const std::function<void()>& between = [] {});
  ~JacobianFactors() override;
  JacobianFactors(const JacobianFactors&) = delete;
  JacobianFactors& operator=(const JacobianFactors&) = delete;

  std::string name() const override { return "outputs"; }
  std::int64_t rows_at_once() const override;
  std::uint64_t bytes_per_row(std::int64_t columns) const override;
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;

  class Numbers;  // in numbers of one precision

 private:
  const JacobianPlan& plan_;
  std::int64_t columns_;
  std::unique_ptr<Numbers> numbers_;
};

}  // namespace hessian_mpi::layers
