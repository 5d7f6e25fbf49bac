#pragma once
/// The rows, and columns, of H that belong to a parameter of a layer, and which of them are of the same output.
/// Internal to the factored engine.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/engines/tile.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "layer_factors/factors.hpp"

namespace hessian_mpi::layers {

/// A weight or a bias; of a weight with several groups what belongs to one of them. Its rows are those of its outputs p
/// and the columns q of its weight (a bias has one): output by output, or, where the weight lies so, column by column.
template <class Number>
struct Slab {
  std::size_t layer = 0;
  std::size_t group = 0;
  bool bias = false;
  bool by_input = false;
  bool diagonal = false;    ///< of an elementwise layer: column q of what the weight sees is of output q alone
  std::int64_t offset = 0;  ///< of its first row in H
  std::int64_t first_output = 0;
  std::int64_t outputs = 0;
  std::int64_t columns = 1;
  const Number* inputs = nullptr;  ///< a, [u][t][columns], diagonal: [u][t][outputs]; of a bias ones
  engines::Strips<Number>
      strips;  ///< the same, to multiply with from the left; none of a bias, a diagonal, nor column by column

  std::int64_t rows() const { return outputs * columns; }
  /// A row of H by its output, counted from the slab's first, and column.
  std::int64_t row(std::int64_t output, std::int64_t column) const {
    return offset + (by_input ? column * outputs + output : output * columns + column);
  }
  /// From a row to that of the next column of the same output.
  std::int64_t step() const { return by_input ? outputs : 1; }
};

/// Columns [begin, end) of the weight, in the rows of one output, counted from the slab's first.
struct RowsOfOutput {
  std::int64_t output = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
};

/// A row of H that is the slab's.
template <class Number>
RowOfLayer row_of_layer(const Slab<Number>& slab, std::int64_t row) {
  const auto i = row - slab.offset;
  const auto output = slab.first_output + (slab.by_input ? i % slab.outputs : i / slab.columns);
  if (slab.bias) return {slab.layer, output, slab.group, std::nullopt};
  if (slab.diagonal) return {slab.layer, output, slab.group, output};
  return {slab.layer, output, slab.group, slab.by_input ? i / slab.outputs : i % slab.columns};
}

/// Some neighbouring rows of a slab, output by output.
template <class Number>
std::vector<RowsOfOutput> outputs_in(const Slab<Number>& slab, const Rows& rows);

/// All slabs of the factors' layers, in the order of rows. ones: as many as a layer has positions in all units. Factors
/// and ones must outlive the slabs.
template <class Number>
std::vector<Slab<Number>> slabs_of(const Factors<Number>& factors, const matrix::ParameterIndex& index,
                                   const std::vector<Number>& ones);

}  // namespace hessian_mpi::layers
