#include "layer_factors/slab.hpp"

#include <algorithm>
#include <utility>

namespace hessian_mpi::layers {

template <class Number>
std::vector<RowsOfOutput> outputs_in(const Slab<Number>& slab, const Rows& rows) {
  const auto begin = rows.begin - slab.offset;
  const auto end = rows.end - slab.offset;
  std::vector<RowsOfOutput> found;
  if (slab.by_input) {
    for (std::int64_t p = 0; p < slab.outputs; ++p) {
      // Columns whose row of this output is not before the first row, nor after the last.
      const RowsOfOutput of_output{p, begin / slab.outputs + (p < begin % slab.outputs ? 1 : 0),
                                   end / slab.outputs + (p < end % slab.outputs ? 1 : 0)};
      if (of_output.count() > 0) found.push_back(of_output);
    }
    return found;
  }
  for (auto row = begin; row < end;) {
    const auto q = row % slab.columns;
    const auto count = std::min(slab.columns - q, end - row);
    found.push_back({row / slab.columns, q, q + count});
    row += count;
  }
  return found;
}

template <class Number>
std::vector<Slab<Number>> slabs_of(const Factors<Number>& factors, const matrix::ParameterIndex& index,
                                   const std::vector<Number>& ones) {
  std::vector<Slab<Number>> slabs;
  for (std::size_t l = 0; l < factors.size(); ++l) {
    const auto& layer = factors.layer(l);
    for (std::size_t g = 0; layer.weight && g < layer.inputs.size(); ++g) {
      Slab<Number> slab;
      slab.layer = l;
      slab.group = g;
      slab.by_input = layer.by_input;
      slab.diagonal = layer.elementwise;
      slab.first_output = layer.first_outputs[g];
      slab.outputs = layer.outputs_of_group;
      slab.columns = layer.elementwise ? 1 : layer.columns;
      slab.offset = index.entries()[*layer.weight].offset + static_cast<std::int64_t>(g) * slab.rows();
      slab.inputs = layer.inputs[g].data();
      if (!slab.by_input && !slab.diagonal) {
        engines::fill_strips(slab.inputs, layer.columns, factors.units() * layer.positions, layer.columns, slab.strips);
      }
      slabs.push_back(std::move(slab));
    }
    if (layer.bias) {
      Slab<Number> slab;
      slab.layer = l;
      slab.bias = true;
      slab.offset = index.entries()[*layer.bias].offset;
      slab.outputs = layer.outputs;
      slab.inputs = ones.data();
      slabs.push_back(std::move(slab));
    }
  }
  std::sort(slabs.begin(), slabs.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  return slabs;
}

template std::vector<RowsOfOutput> outputs_in(const Slab<float>&, const Rows&);
template std::vector<RowsOfOutput> outputs_in(const Slab<double>&, const Rows&);
template std::vector<Slab<float>> slabs_of(const Factors<float>&, const matrix::ParameterIndex&,
                                           const std::vector<float>&);
template std::vector<Slab<double>> slabs_of(const Factors<double>&, const matrix::ParameterIndex&,
                                            const std::vector<double>&);

}  // namespace hessian_mpi::layers
