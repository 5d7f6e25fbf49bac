#include "layer_factors/column_panels.hpp"

#include <algorithm>
#include <functional>

#include "number.hpp"

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t panel_bytes = 256 << 10;  // half of a core's second cache
constexpr std::int64_t widest_panel = 8192;

template <class Number>
std::int64_t widest_panel_of(std::int64_t units) {
  constexpr auto width = engines::Strips<Number>::width;
  const auto fitting = panel_bytes / (units * static_cast<std::int64_t>(sizeof(Number))) / width * width;
  return std::clamp<std::int64_t>(fitting, 4 * width, widest_panel);
}

}  // namespace

template <class Number>
template <class Out>
void ColumnPanels<Number>::multiply(const Slab<Number>& x, const RowsOfOutput& rows,
                                    const OutputFactors<Number>& of_output, const Slab<Number>& y, const Rows& some,
                                    Out* out, std::int64_t stride) {
  const auto units = factors_.units();
  if (units > most_units) return multiply_in_pieces(x, rows, of_output, y, some, out, stride);
  first_unit_ = 0;
  const auto widest = widest_panel_of<Number>(units);
  for (auto column = some.begin; column < some.end; column += widest) {
    panel_.resize(units, std::min(widest, some.end - column));
    fill(of_output, y, column);
    engines::multiply(engines::Product<Number>{x.inputs + rows.begin, x.columns, panel_.factor()}, rows.count(),
                      out + column - some.begin, stride);
  }
}

template <class Number>
template <class Out>
void ColumnPanels<Number>::multiply_in_pieces(const Slab<Number>& x, const RowsOfOutput& rows,
                                              const OutputFactors<Number>& of_output, const Slab<Number>& y,
                                              const Rows& some, Out* out, std::int64_t stride) {
  const auto widest = widest_panel_of<Number>(most_units);
  for (auto column = some.begin; column < some.end; column += widest) {
    const auto count = std::min(widest, some.end - column);
    piece_.resize(static_cast<std::size_t>(rows.count() * count));
    sums_.assign(piece_.size(), 0);
    for (first_unit_ = 0; first_unit_ < factors_.units(); first_unit_ += most_units) {
      panel_.resize(std::min(most_units, factors_.units() - first_unit_), count);
      fill(of_output, y, column);
      const auto* inputs = x.inputs + first_unit_ * x.columns + rows.begin;
      engines::multiply(engines::Product<Number>{inputs, x.columns, panel_.factor()}, rows.count(), piece_.data(),
                        count);
      std::transform(sums_.begin(), sums_.end(), piece_.begin(), sums_.begin(), std::plus<>());
    }
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      const auto* const from = sums_.data() + i * count;
      std::transform(from, from + count, out + i * stride + column - some.begin,
                     [](double sum) { return static_cast<Out>(sum); });
    }
  }
}

// M in the columns of y from one on.
template <class Number>
void ColumnPanels<Number>::fill(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t column) {
  const auto& layer = factors_.layer(y.layer);
  const bool row_major = !y.bias && !y.by_input;
  if (row_major && layer.positions == 1 && layer.sees_input_as_it_is) return fill_strips(of_output, y, column);
  for (std::int64_t k = 0; k < panel_.inner(); ++k) {
    for (std::int64_t done = 0; done < panel_.columns();) {
      const auto at = column + done;
      const auto left = panel_.columns() - done;
      if (y.bias || y.by_input) {
        const auto r = at % y.outputs;
        const auto count = std::min(y.outputs - r, left);
        fill_outputs(of_output, y, k, done, at / y.outputs, r, count);
        done += count;
      } else {
        const auto s = at % y.columns;
        const auto count = std::min(y.columns - s, left);
        fill_columns(of_output, y, k, done, s, y.first_output + at / y.columns, count);
        done += count;
      }
    }
  }
}

// The same, of a layer with one position that sees its input as it is: several outputs together, where strips begin
// with columns of the weight.
template <class Number>
void ColumnPanels<Number>::fill_strips(const OutputFactors<Number>& of_output, const Slab<Number>& y,
                                       std::int64_t column) {
  constexpr auto width = engines::Strips<Number>::width;
  const bool aligned = y.columns % width == 0 && column % width == 0;
  for (std::int64_t done = 0; done < panel_.columns();) {
    const auto r = (column + done) / y.columns;
    const auto s = (column + done) % y.columns;
    const auto left = panel_.columns() - done;
    const auto outputs = aligned && s == 0 ? std::max<std::int64_t>(1, left / y.columns) : 1;
    const auto count = std::min({y.columns - s, left, aligned ? left : width - done % width});
    fill_outputs_together(of_output, y, {r, r + outputs}, {s, s + count}, done);
    done += outputs * count;
  }
}

template <class Number>
void ColumnPanels<Number>::fill_outputs_together(const OutputFactors<Number>& of_output, const Slab<Number>& y,
                                                 const Rows& outputs, const Rows& columns, std::int64_t done) {
  const auto& layer = factors_.layer(y.layer);
  const auto& derivatives = of_output.derivatives[y.layer];
  const auto first = first_unit_ * layer.outputs + y.first_output + outputs.begin;
  engines::ScaledRows<Number> by_delta{layer.delta.data() + first, layer.outputs, nullptr, layer.elements};
  if (!derivatives.empty()) by_delta.row = derivatives.data() + first_unit_ * layer.elements + columns.begin;
  engines::combine<Number>(panel_.inner(), columns.count(),
                           {of_output.second[y.layer].data() + first, layer.outputs,
                            y.inputs + first_unit_ * y.columns + columns.begin, y.columns},
                           by_delta, panel_.rows(done, outputs.count(), y.columns));
}

// One column s of the weight, from output r on.
template <class Number>
void ColumnPanels<Number>::fill_outputs(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t k,
                                        std::int64_t done, std::int64_t s, std::int64_t r, std::int64_t count) {
  const auto& layer = factors_.layer(y.layer);
  const auto unit = first_unit_ + k;
  const Number* second = of_output.second[y.layer].data() + unit * layer.positions * layer.outputs + r;
  const auto& derivatives = of_output.derivatives[y.layer];
  const bool with_derivatives = !y.bias && !derivatives.empty();
  const auto derivative = [&](std::int64_t t) {
    const auto element = layer.input_elements[y.group][static_cast<std::size_t>(t * y.columns + s)];
    return element < 0 ? Number{0} : derivatives[static_cast<std::size_t>(unit * layer.elements + element)];
  };
  const auto input = [&](std::int64_t t) {
    return y.bias ? Number{1} : y.inputs[(unit * layer.positions + t) * y.columns + s];
  };
  const Number* delta = layer.delta.data() + unit * layer.positions * layer.outputs + r;
  if (layer.positions == 1) {
    engines::combine<Number>(count, input(0), second, with_derivatives ? derivative(0) : Number{0},
                             with_derivatives ? delta : nullptr, panel_, k, done);
    return;
  }
  line_.assign(static_cast<std::size_t>(count), Number{0});
  for (std::int64_t t = 0; t < layer.positions; ++t) {
    engines::accumulate<Number>(count, input(t), second + t * layer.outputs, line_.data());
    if (with_derivatives) engines::accumulate<Number>(count, derivative(t), delta + t * layer.outputs, line_.data());
  }
  engines::combine<Number>(count, 1, line_.data(), 0, nullptr, panel_, k, done);
}

// One output r, from column s of the weight on.
template <class Number>
void ColumnPanels<Number>::fill_columns(const OutputFactors<Number>& of_output, const Slab<Number>& y, std::int64_t k,
                                        std::int64_t done, std::int64_t s, std::int64_t r, std::int64_t count) {
  const auto& layer = factors_.layer(y.layer);
  const auto unit = first_unit_ + k;
  const Number* second = of_output.second[y.layer].data() + unit * layer.positions * layer.outputs + r;
  const auto& derivatives = of_output.derivatives[y.layer];
  const Number* of_unit = derivatives.empty() ? nullptr : derivatives.data() + unit * layer.elements;
  const Number* delta = layer.delta.data() + unit * layer.positions * layer.outputs + r;
  line_.assign(static_cast<std::size_t>(count), Number{0});
  for (std::int64_t t = 0; t < layer.positions; ++t) {
    const auto place = unit * layer.positions + t;
    engines::accumulate<Number>(count, second[t * layer.outputs], y.inputs + place * y.columns + s, line_.data());
    if (of_unit == nullptr) continue;
    if (layer.sees_input_as_it_is) {
      engines::accumulate<Number>(count, delta[t * layer.outputs], of_unit + t * y.columns + s, line_.data());
      continue;
    }
    const std::int64_t* const elements = layer.input_elements[y.group].data() + t * y.columns + s;
    for (std::int64_t i = 0; i < count; ++i) {
      if (elements[i] >= 0) line_[static_cast<std::size_t>(i)] += delta[t * layer.outputs] * of_unit[elements[i]];
    }
  }
  engines::combine<Number>(count, 1, line_.data(), 0, nullptr, panel_, k, done);
}

#define HESSIAN_MPI_INSTANTIATE(Number, Out)                                                                           \
  template void ColumnPanels<Number>::multiply(const Slab<Number>&, const RowsOfOutput&, const OutputFactors<Number>&, \
                                               const Slab<Number>&, const Rows&, Out*, std::int64_t)
template class ColumnPanels<float>;
template class ColumnPanels<double>;
HESSIAN_MPI_FOR_NUMBERS(HESSIAN_MPI_INSTANTIATE);
#undef HESSIAN_MPI_INSTANTIATE

}  // namespace hessian_mpi::layers
