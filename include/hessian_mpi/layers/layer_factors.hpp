#pragma once
/// Rows factored by layer, exact. Of a layer z = a W^T + b only z and a change with the other parameters.
/// With delta = dL/dz, k over samples, for parameters W_l[p, q] and W_m[r, s] of layers l and m, of which m does not
/// come before l:
///
///   H = sum_k  S_lm[k, p, r] a_l[k, q] a_m[k, s]  +  a_l[k, q] J_ml[k, s, p] delta_m[k, r]
///
/// S_lm[k, p, r] = d delta_l[k, p] / d z_m[k, r] with z_m taken as an intermediate, J_ml[k, s, p] = d a_m[k, s] / d
/// z_l[k, p] (zero unless m is downstream of l); biases: the same with a = 1 and J = 0. One double-backward pass gives
/// both, for an output p of a layer, in all other layers and samples at once: S as the derivative by z_m, J as that by
/// dL/da_m. The rest is products of matrices whose inner dimension is the number of samples
/// (src/layers/layer_factors/column_panels.hpp, row_sums.hpp). This is the product rule, applied to dL/dW = delta^T a
/// and then to delta and a by the chain rule; for layers seen at several positions of a sample, sums over those are
/// added. Columns of layers before l are rows of earlier steps: H is symmetric. Where layers share parameters, H is the
/// sum of what it would be for parameters of their own: a row then comes of one pass from all of them, from inputs too.

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::layers {

class LayerFactors final : public engines::Engine {
 public:
  /// Not collective. step: the same on all ranks. own: the rows of the step that this rank is going to ask for, in
  /// order. columns: what rows of earlier steps have in those, exchanged before the first of them is asked for. others:
  /// makes rows of earlier steps, if asked for. accumulate: of the sums over samples. What is asked for is all columns,
  /// or some, of which those that the step's layers have are made. memory: bytes for what passes find; more of them are
  /// made again where it is small. Problem, step, columns and others must outlive the engine.
  LayerFactors(const network::Problem& problem, const LayerStep& step, const std::vector<Rows>& own,
               const EarlierColumns& columns, engines::Engine& others, Precision accumulate, std::uint64_t memory);
  ~LayerFactors() override;
  LayerFactors(const LayerFactors&) = delete;
  LayerFactors& operator=(const LayerFactors&) = delete;

  std::string name() const override { return "layers"; }
  std::int64_t rows_at_once() const override { return 64; }
  std::uint64_t bytes_per_row(std::int64_t /*columns*/) const override { return 0; }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;
  /// Not collective. This row of a weight or bias that passes for outputs make, and those of the same output in the
  /// columns after it, so many in all, in the columns that the step's layers have: [count][N], of which the others are
  /// left as they are.
  void compute_of_output(std::int64_t first, std::int64_t count, Precision storage, void* out);
  engines::Passes passes() const override;

  class Assembly;  // in numbers of one precision

 private:
  c10::Device device_;
  std::unique_ptr<Assembly> assembly_;
};

}  // namespace hessian_mpi::layers
