#pragma once
/// Rows of one output of a layer with one position, in the columns of layers that its input does not depend on: what
/// the rows have in common is filled once, a panel of columns at a time, and multiplied with the inputs of each row.
///
///   H[(p, q), (r, s)] = sum_k a_x[k, q] M[k, (r, s)],  M = sum_t S[k, p; t, r] a_y[t, s] + delta_y[t, r] J_y[t, s; k,
///   p]
///
/// Internal to the factored engine.

#include <cstdint>
#include <vector>

#include "hessian_mpi/engines/tile.hpp"
#include "layer_factors/factors.hpp"
#include "layer_factors/slab.hpp"

namespace hessian_mpi::layers {

template <class Number>
class ColumnPanels {
 public:
  /// The factors must outlive the object.
  explicit ColumnPanels(const Factors<Number>& factors) : factors_(factors) {}

  /// Writes the rows of x, the first to out, each stride numbers after the last, in some of the columns of y, counted
  /// from its first; the first of them is there. of_output: of the rows' output.
  template <class Out>
  void multiply(const Slab<Number>& x, const RowsOfOutput& rows, const OutputFactors<Number>& of_output,
                const Slab<Number>& y, const Rows& some, Out* out, std::int64_t stride);

 private:
  template <class Out>
  void multiply_in_pieces(const Slab<Number>& x, const RowsOfOutput& rows, const OutputFactors<Number>& of_output,
                          const Slab<Number>& y, const Rows& some, Out* out, std::int64_t stride);
  void fill(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t column);
  void fill_strips(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t column);
  void fill_outputs_together(const OutputFactors<Number>& of_output, const Slab<Number>& y, const Rows& outputs,
                             const Rows& columns, std::int64_t done);
  void fill_outputs(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t k, std::int64_t done,
                    std::int64_t s, std::int64_t r, std::int64_t count);
  void fill_columns(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t k, std::int64_t done,
                    std::int64_t s, std::int64_t r, std::int64_t count);

  const Factors<Number>& factors_;
  engines::Strips<Number> panel_;  // of some neighbouring units,
  std::int64_t first_unit_ = 0;    // from this one on
  std::vector<Number> piece_;      // summed over these,
  std::vector<double> sums_;       // and over all so far
  std::vector<Number> line_;
};

}  // namespace hessian_mpi::layers
