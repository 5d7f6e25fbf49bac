#include "layer_factors/own_columns.hpp"

#include <algorithm>
#include <functional>

#include "number.hpp"

namespace hessian_mpi::layers {
namespace {

// Columns [begin, end) of these rows, of each of some outputs, to the rows of those columns. Rows lie stride numbers
// apart, outputs as many as a row of the weight has.
template <class Out>
void copy_transposed(const Rows& rows, const Rows& columns, std::int64_t outputs, std::int64_t step, Out* out,
                     std::int64_t stride) {
  constexpr std::int64_t at_once = engines::Strips<Out>::width;
  for (auto begin = columns.begin; begin < columns.end; begin += at_once) {
    const auto end = std::min(columns.end, begin + at_once);
    for (std::int64_t r = 0; r < outputs; ++r) {
      Out* const block = out + r * step;
      engines::transpose(block + rows.begin * stride + begin, stride, rows.count(), end - begin,
                         block + begin * stride + rows.begin, stride);
    }
  }
}

}  // namespace

template <class Number>
bool OwnColumns<Number>::serves(const Slab<Number>& x) const {
  return !x.bias && has_halves(factors_.layer(x.layer).positions, x.by_input, x.diagonal, x.columns);
}

template <class Number>
template <class Out>
void OwnColumns<Number>::multiply(const Slab<Number>& x, const RowsOfOutput& rows,
                                  const OutputFactors<Number>& of_output, const Rows& some, Out* out,
                                  std::int64_t stride) {
  const Rows outputs{some.begin / x.columns, (some.end + x.columns - 1) / x.columns};
  const Number* const second = of_output.second[x.layer].data() + x.first_output + outputs.begin;
  const auto width = outputs.count() * x.columns;
  const auto first = some.begin - outputs.begin * x.columns;
  if (first == 0 && some.count() == width) return multiply_outputs(x, rows, second, outputs.count(), out, stride);
  std::vector<Out> numbers(static_cast<std::size_t>(rows.count() * width));
  multiply_outputs(x, rows, second, outputs.count(), numbers.data(), width);
  for (std::int64_t i = 0; i < rows.count(); ++i) {
    std::copy_n(numbers.data() + i * width + first, some.count(), out + i * stride);
  }
}

// In all columns of some outputs. Rows that begin with the first are made in the columns from their own on.
template <class Number>
template <class Out>
void OwnColumns<Number>::multiply_outputs(const Slab<Number>& x, const RowsOfOutput& rows, const Number* second,
                                          std::int64_t outputs, Out* out, std::int64_t stride) {
  constexpr auto at_once = engines::Strips<Number>::width;
  const bool half = rows.begin == 0;
  for (auto begin = rows.begin; begin < rows.end; begin += at_once) {
    const Rows some{begin, std::min(rows.end, begin + at_once)};
    const auto first = half ? begin : 0;
    multiply_rows(x, some, first, second, outputs, out + (begin - rows.begin) * stride + first, stride);
    if (half) copy_transposed(some, {some.end, rows.end}, outputs, x.columns, out, stride);
  }
}

// From a column on, in which a strip begins.
template <class Number>
template <class Out>
void OwnColumns<Number>::multiply_rows(const Slab<Number>& x, const Rows& rows, std::int64_t first,
                                       const Number* second, std::int64_t outputs, Out* out, std::int64_t stride) {
  const auto count = x.columns - first;
  const auto of_row = outputs * count;
  const auto step = factors_.layer(x.layer).outputs;
  const bool at_once = factors_.units() <= most_units;
  piece_.resize(static_cast<std::size_t>(at_once ? 0 : of_row));
  sums_.assign(static_cast<std::size_t>(at_once ? 0 : rows.count() * of_row), 0);
  for (std::int64_t unit = 0; unit < factors_.units(); unit += most_units) {
    const Rows units{unit, std::min(factors_.units(), unit + most_units)};
    for (auto q = rows.begin; q < rows.end; ++q) {
      const auto i = q - rows.begin;
      if (i % rows_together == 0) fill(x, {q, std::min(rows.end, q + rows_together)}, first, units);
      const engines::Product<Number> product{second + unit * step, step, products_of(i % rows_together, count)};
      if (at_once) {
        engines::multiply(product, outputs, out + i * stride, x.columns);
        continue;
      }
      engines::multiply(product, outputs, piece_.data(), count);
      const auto sums = sums_.begin() + i * of_row;
      std::transform(piece_.begin(), piece_.end(), sums, sums, std::plus<>());
    }
  }
  for (std::int64_t i = 0; i < rows.count() && !at_once; ++i) {
    for (std::int64_t r = 0; r < outputs; ++r) {
      const auto* const from = sums_.data() + i * of_row + r * count;
      std::transform(from, from + count, out + i * stride + r * x.columns,
                     [](double sum) { return static_cast<Out>(sum); });
    }
  }
}

// a[k, q] a[k, s] of some units and some columns q, one after the other, from a column s on.
template <class Number>
void OwnColumns<Number>::fill(const Slab<Number>& x, const Rows& columns, std::int64_t first, const Rows& units) {
  constexpr auto width = engines::Strips<Number>::width;
  const auto of_column = (x.columns - first + width - 1) / width * width;
  products_.resize(units.count(), of_column * rows_together);
  const Number* const inputs = x.inputs + units.begin * x.columns;
  engines::combine<Number>(units.count(), x.columns - first,
                           {inputs + columns.begin, x.columns, inputs + first, x.columns}, {},
                           products_.rows(0, columns.count(), of_column));
}

template <class Number>
engines::RightFactor<Number> OwnColumns<Number>::products_of(std::int64_t i, std::int64_t count) {
  auto factor = products_.factor();
  factor.begin = products_.at(0, i * (products_.columns() / rows_together));
  factor.columns = count;
  return factor;
}

#define HESSIAN_MPI_INSTANTIATE(Number, Out)                                                                         \
  template void OwnColumns<Number>::multiply(const Slab<Number>&, const RowsOfOutput&, const OutputFactors<Number>&, \
                                             const Rows&, Out*, std::int64_t)
template class OwnColumns<float>;
template class OwnColumns<double>;
HESSIAN_MPI_FOR_NUMBERS(HESSIAN_MPI_INSTANTIATE);
#undef HESSIAN_MPI_INSTANTIATE

}  // namespace hessian_mpi::layers
