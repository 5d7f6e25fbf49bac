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
    const auto outputs = layer.outputs / layer.groups;
    for (std::int64_t g = 0; layer.weight && g < layer.groups; ++g) {
      const auto group = static_cast<std::size_t>(g);
      Slab<Number> slab{l,
                        group,
                        false,
                        layer.by_input,
                        index.entries()[*layer.weight].offset + g * outputs * layer.columns,
                        g * outputs,
                        outputs,
                        layer.columns,
                        layer.inputs[group].data(),
                        {}};
      if (!layer.by_input)
        engines::fill_strips(slab.inputs, factors.units() * layer.positions, layer.columns, slab.strips);
      slabs.push_back(std::move(slab));
    }
    if (layer.bias) {
      slabs.push_back({l, 0, true, false, index.entries()[*layer.bias].offset, 0, layer.outputs, 1, ones.data(), {}});
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
