#include "layer_factors/row_sums.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <span>

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t bytes_at_once = 16 << 20;
constexpr std::int64_t bytes_of_strips = 256 << 10;
constexpr std::int64_t most_places = 4096;  // whose sum is rounded to the precision of the factors

}  // namespace

template <class Number>
std::int64_t RowSums<Number>::rows_at_once(std::size_t m) const {
  const auto& layer = factors_.layer(m);
  const auto numbers = factors_.units() * (layer.positions * layer.outputs + layer.elements);
  return std::max<std::int64_t>(1, bytes_at_once / (numbers * static_cast<std::int64_t>(sizeof(Number))));
}

template <class Number>
const Sums<Number>& RowSums<Number>::sum(const Slab<Number>& x, const RowsOfOutput& rows,
                                         const OutputFactors<Number>& of_output, std::size_t m) {
  const auto& layer = factors_.layer(m);
  const auto numbers = layer.positions * layer.outputs;
  sums_.second.resize(
      static_cast<std::size_t>(rows.count() * factors_.units() * numbers + engines::Strips<Number>::width));
  sums_.derivatives.clear();
  if (factors_.depends(x.layer, m) && !x.bias) {
    sum_upstream(x, rows, of_output.second[m].data(), m);
    return sums_;
  }
  sum_positions(x, rows, of_output.second[m].data(), numbers, sums_.second);
  if (!layer.weight || of_output.derivatives[m].empty()) return sums_;
  sums_.derivatives.resize(static_cast<std::size_t>(rows.count() * factors_.units() * layer.elements));
  sum_positions(x, rows, of_output.derivatives[m].data(), layer.elements, sums_.derivatives);
  return sums_;
}

// Both terms of E in one pass.
template <class Number>
void RowSums<Number>::sum_upstream(const Slab<Number>& x, const RowsOfOutput& rows, const Number* second,
                                   std::size_t m) {
  const auto& own = factors_.layer(x.layer);
  const auto numbers = factors_.layer(m).outputs;
  const auto units = factors_.units();
  for (auto q = rows.begin; q < rows.end; ++q) {
    const auto element = own.input_elements[x.group][static_cast<std::size_t>(q)];
    engines::ScaledRows<Number> by_input{own.delta.data() + x.first_output + rows.output, own.outputs, nullptr,
                                         numbers};
    if (element >= 0) by_input.row = factors_.input_derivative(x.layer, element, m);
    engines::combine<Number>(units, numbers, {x.inputs + q, x.columns, second, numbers}, by_input,
                             sums_.second.data() + (q - rows.begin) * units * numbers, numbers);
  }
}

// sums[row][u][i] = sum over t of a_x[u][t][q of the row] * of_places[u][t][i], for i < numbers. Where many rows read
// the same places, these are brought near first: rows of them lie too far apart to stay in a cache.
template <class Number>
void RowSums<Number>::sum_positions(const Slab<Number>& x, const RowsOfOutput& rows, const Number* of_places,
                                    std::int64_t numbers, std::vector<Number>& sums) {
  constexpr auto width = engines::Strips<Number>::width;
  constexpr std::int64_t many = 8;
  const auto positions = factors_.layer(x.layer).positions;
  const auto units = factors_.units();
  const auto fitting = bytes_of_strips / (positions * static_cast<std::int64_t>(sizeof(Number)));
  const auto at_once = rows.count() < many ? numbers : std::max(width, fitting / width * width);
  for (std::int64_t u = 0; u < units; ++u) {
    const Number* const inputs = x.bias ? ones_.data() : x.inputs + u * positions * x.columns + rows.begin;
    const Number* const places = of_places + u * positions * numbers;
    for (std::int64_t first = 0; first < numbers; first += at_once) {
      const auto count = std::min(at_once, numbers - first);
      if (rows.count() >= many) engines::fill_strips(places + first, numbers, positions, count, near_);
      const auto right =
          rows.count() < many ? engines::rows_as_factor(places, numbers, positions, numbers) : near_.factor();
      hessian_mpi::engines::multiply(engines::Product<Number>{inputs, x.columns, right}, rows.count(),
                                     sums.data() + u * numbers + first, units * numbers);
    }
  }
}

// D of a row in the order of y's inputs: [u][t][columns].
template <class Number>
const Number* RowSums<Number>::seen(const Number* elements, const Slab<Number>& y) {
  const auto& layer = factors_.layer(y.layer);
  if (layer.sees_input_as_it_is) return elements;
  const auto& places = layer.input_elements[y.group];
  const auto count = static_cast<std::int64_t>(places.size());
  seen_.resize(static_cast<std::size_t>(factors_.units() * count));
  for (std::int64_t u = 0; u < factors_.units(); ++u) {
    engines::gather(elements + u * layer.elements, places.data(), count, seen_.data() + u * count);
  }
  return seen_.data();
}

// The same as strips, each place on its way through a line that stays near.
template <class Number>
void RowSums<Number>::fill_seen_strips(const Number* elements, const Slab<Number>& y) {
  const auto& layer = factors_.layer(y.layer);
  const auto places = factors_.units() * layer.positions;
  if (layer.sees_input_as_it_is) return engines::fill_strips(elements, y.columns, places, y.columns, seen_strips_);
  seen_strips_.resize(places, y.columns);
  line_.resize(static_cast<std::size_t>(y.columns));
  for (std::int64_t place = 0; place < places; ++place) {
    const auto* const of_place = layer.input_elements[y.group].data() + place % layer.positions * y.columns;
    engines::gather(elements + place / layer.positions * layer.elements, of_place, y.columns, line_.data());
    engines::combine<Number>(y.columns, 1, line_.data(), 0, nullptr, seen_strips_, place, 0);
  }
}

template <class Number>
template <class Out>
void RowSums<Number>::multiply(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y, const Rows& some,
                               Out* out) {
  // Columns that lie output by output are made for the outputs that some belong to, others for all.
  const Rows outputs =
      y.by_input ? Rows{0, y.outputs} : Rows{some.begin / y.columns, (some.end + y.columns - 1) / y.columns};
  const auto first = y.by_input ? 0 : outputs.begin * y.columns;
  if (some == Rows{first, first + outputs.count() * y.columns}) {
    multiply_outputs(sums, i, y, outputs, out);
    return;
  }
  std::vector<Out> numbers(static_cast<std::size_t>(outputs.count() * y.columns));
  multiply_outputs(sums, i, y, outputs, numbers.data());
  std::copy(numbers.begin() + (some.begin - first), numbers.begin() + (some.end - first), out);
}

// In all columns of some outputs, counted from the slab's first: the sums of pieces are added up in float64, since
// rounding in float32 grows with the number of places.
template <class Number>
template <class Out>
void RowSums<Number>::multiply_outputs(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y,
                                       const Rows& outputs, Out* out) {
  const auto places = factors_.units() * factors_.layer(y.layer).positions;
  if (!sums.derivatives.empty() && !y.bias) {
    const Number* const elements = sums.derivatives.data() + i * factors_.units() * factors_.layer(y.layer).elements;
    if (y.by_input || y.diagonal) {
      derivatives_ = seen(elements, y);
    } else {
      fill_seen_strips(elements, y);
    }
  }
  if (places <= most_places) return multiply_places(sums, i, y, outputs, {0, places}, out);
  const auto count = static_cast<std::size_t>(outputs.count() * y.columns);
  piece_.resize(count);
  std::vector<double> all(count, 0);
  for (std::int64_t first = 0; first < places; first += most_places) {
    multiply_places(sums, i, y, outputs, {first, std::min(places, first + most_places)}, piece_.data());
    std::transform(all.begin(), all.end(), piece_.begin(), all.begin(), std::plus<>());
  }
  std::transform(all.begin(), all.end(), out, [](double sum) { return static_cast<Out>(sum); });
}

// The same, summed over some places.
template <class Number>
template <class Out>
void RowSums<Number>::multiply_places(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y,
                                      const Rows& outputs, const Rows& places, Out* out) {
  const auto& layer = factors_.layer(y.layer);
  const auto first = places.begin * layer.outputs + y.first_output + outputs.begin;
  const Number* const second = sums.second.data() + i * factors_.units() * layer.positions * layer.outputs + first;
  if (y.bias) return engines::add_up(second, layer.outputs, outputs.count(), places.count(), out);
  const Number* const delta = layer.delta.data() + first;
  const bool downstream = !sums.derivatives.empty();
  const std::size_t products = downstream ? 2 : 1;
  if (y.diagonal) {
    const auto begin = places.begin * layer.outputs + outputs.begin;
    line_.assign(static_cast<std::size_t>(outputs.count()), Number{0});
    engines::add_up_products<Number>({second, y.inputs + begin}, places.count(), layer.outputs, line_);
    if (downstream) {
      engines::add_up_products<Number>({delta, derivatives_ + begin}, places.count(), layer.outputs, line_);
    }
    std::transform(line_.begin(), line_.end(), out, [](Number sum) { return static_cast<Out>(sum); });
  } else if (y.by_input) {
    const auto begin = places.begin * y.columns;
    const std::array<engines::Product<Number>, 2> both{
        engines::Product<Number>{y.inputs + begin, y.columns,
                                 engines::rows_as_factor(second, layer.outputs, places.count(), layer.outputs)},
        engines::Product<Number>{downstream ? derivatives_ + begin : nullptr, y.columns,
                                 engines::rows_as_factor(delta, layer.outputs, places.count(), layer.outputs)}};
    hessian_mpi::engines::multiply(std::span(both).first(products), y.columns, out, layer.outputs);
  } else {
    const std::array<engines::Product<Number>, 2> both{
        engines::Product<Number>{second, layer.outputs, y.strips.factor(places)},
        engines::Product<Number>{delta, layer.outputs,
                                 downstream ? seen_strips_.factor(places) : engines::RightFactor<Number>{}}};
    hessian_mpi::engines::multiply(std::span(both).first(products), outputs.count(), out, y.columns);
  }
}

#define HESSIAN_MPI_INSTANTIATE(Number, Out) \
  template void RowSums<Number>::multiply(const Sums<Number>&, std::int64_t, const Slab<Number>&, const Rows&, Out*)
template class RowSums<float>;
template class RowSums<double>;
HESSIAN_MPI_INSTANTIATE(float, float);
HESSIAN_MPI_INSTANTIATE(float, double);
HESSIAN_MPI_INSTANTIATE(double, float);
HESSIAN_MPI_INSTANTIATE(double, double);
#undef HESSIAN_MPI_INSTANTIATE

}  // namespace hessian_mpi::layers
