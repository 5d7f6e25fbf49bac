#pragma once
/// Rows of one output of a weight with one position, in the columns of the same weight:
///
///   H[(p, q), (r, s)] = sum_k S[k, p; r] (a[k, q] a[k, s])
///
/// Of two outputs p and r that is symmetric in the columns q and s, so half of it is computed and the rest copied.
/// Which half does not decide the bits: the factors of a product may change places.
///
/// Internal to the factored engine.

#include <cstdint>
#include <vector>

#include "hessian_mpi/engines/tile.hpp"
#include "layer_factors/factors.hpp"
#include "layer_factors/slab.hpp"

namespace hessian_mpi::layers {

/// Whether rows of a weight in its own columns are made so: at one position, output by output, with so few columns
/// that rows stay near until they are copied.
inline bool has_halves(std::int64_t positions, bool by_input, bool elementwise, std::int64_t columns) {
  return positions == 1 && !by_input && !elementwise && columns <= 256;
}

template <class Number>
class OwnColumns {
 public:
  /// The factors must outlive the object.
  explicit OwnColumns(const Factors<Number>& factors) : factors_(factors) {}

  bool serves(const Slab<Number>& x) const;

  /// Writes the rows of x, the first to out, each stride numbers after the last, in some of x' own columns, counted
  /// from its first; the first of them is there. of_output: of the rows' output.
  template <class Out>
  void multiply(const Slab<Number>& x, const RowsOfOutput& rows, const OutputFactors<Number>& of_output,
                const Rows& some, Out* out, std::int64_t stride);

 private:
  template <class Out>
  void multiply_outputs(const Slab<Number>& x, const RowsOfOutput& rows, const Number* second, std::int64_t outputs,
                        Out* out, std::int64_t stride);
  template <class Out>
  void multiply_rows(const Slab<Number>& x, const Rows& rows, std::int64_t first, const Number* second,
                     std::int64_t outputs, Out* out, std::int64_t stride);
  void fill(const Slab<Number>& x, const Rows& columns, std::int64_t first, const Rows& units);
  engines::RightFactor<Number> products_of(std::int64_t i, std::int64_t count);

  static constexpr std::int64_t rows_together = 4;
  const Factors<Number>& factors_;
  engines::Strips<Number> products_;  // a[k, q] a[k, s] of some units and some q
  std::vector<Number> piece_;         // a row summed over these,
  std::vector<double> sums_;          // and some rows over all so far
};

}  // namespace hessian_mpi::layers
