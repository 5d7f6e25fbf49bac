#pragma once
/// Rows of one output in the columns of one other layer, by what is summed over the row's own positions t first, so
/// that what is left is a product for each row:
///
///   H[(p, q), (r, s)] = sum_k E[k, r] a_y[k, s] + delta_y[k, r] D[k, s]
///   E[k, r] = sum_t a_x[t, q] S[t, p; k, r],  D[k, s] = sum_t a_x[t, q] J_y[k, s; t, p]
///
/// For a y that comes before x, E has delta_x[p] J_x[q; k, r] too, and D is zero. There t is the only position.
///
/// k over the places of y; of a diagonal W_y s = r. Internal to the factored engine.

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "hessian_mpi/engines/tile.hpp"
#include "layer_factors/factors.hpp"
#include "layer_factors/slab.hpp"

namespace hessian_mpi::layers {

template <class Number>
class RowSums {
 public:
  /// The factors must outlive the object. ones: as many as a layer has positions in a unit.
  RowSums(const Factors<Number>& factors, const std::vector<Number>& ones) : factors_(factors), ones_(ones) {}

  /// How many rows of an output are worth taking at once in the columns of layer m.
  std::int64_t rows_at_once(std::size_t m) const;

  /// E and D of some rows, in the columns of layer m. Valid until the next call.
  const Sums<Number>& sum(const Slab<Number>& x, const RowsOfOutput& rows, const OutputFactors<Number>& of_output,
                          std::size_t m);

  /// Writes row i of E and D, in some of the columns of y, a slab of that layer, counted from its first;
  /// the first of them is at out.
  template <class Out>
  void multiply(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y, const Rows& some, Out* out);

 private:
  const Number* sum_directions(const Slab<Number>& x, const RowsOfOutput& rows, const OutputFactors<Number>& of_output);
  void sum_upstream(const Slab<Number>& x, const RowsOfOutput& rows, const Number* second, std::size_t m);
  void sum_positions(const Slab<Number>& x, const RowsOfOutput& rows, const Number* of_places, std::int64_t numbers,
                     std::vector<Number>& sums);
  const Number* seen(const Number* elements, const Slab<Number>& y);
  std::vector<Rows> places_of(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y,
                              const Rows& places) const;
  void fill_seen_strips(const Number* elements, const Slab<Number>& y, const std::vector<Rows>& places);
  template <class Out>
  void multiply_outputs(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y, const Rows& outputs, Out* out);
  template <class Out>
  void add_to_words(const LayerData<Number>& layer, const Number* second, const std::vector<Rows>& places,
                    std::int64_t words, Out* out);
  void append_products(const engines::Product<Number>& product, const std::vector<Rows>& places);
  template <class Out>
  void multiply_places(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y, const Rows& outputs,
                       const Rows& places, Out* out);

  const Factors<Number>& factors_;
  const std::vector<Number>& ones_;
  Sums<Number> sums_;
  /// Of some rows of one output, by the first of them: directions of the tail's x, [u][place][feature][row].
  std::map<std::int64_t, std::vector<Number>> directions_;
  std::optional<OutputOfLayer> output_of_directions_;
  std::vector<Number> seen_;             // D of a row as a slab sees it
  const Number* derivatives_ = nullptr;  // the same, where it lies
  std::vector<Number> line_;
  std::vector<Number> piece_;
  engines::Strips<Number> seen_strips_;
  engines::Strips<Number> near_;
  std::vector<engines::Product<Number>> products_;
};

}  // namespace hessian_mpi::layers
