#include "layer_factors/row_sums.hpp"

#include <algorithm>
#include <functional>
#include <span>

#include "hessian_mpi/matrix/partition.hpp"
#include "number.hpp"

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t bytes_at_once = 16 << 20;
constexpr std::int64_t bytes_of_strips = 256 << 10;
constexpr std::int64_t most_places = 4096;  // whose sum is rounded to the precision of the factors

// Of each row of an embedding the runs of units that its word is in: of most, few.
template <class Number>
std::vector<std::vector<Rows>> units_with_inputs(const Slab<Number>& x, const RowsOfOutput& rows, std::int64_t units,
                                                 std::int64_t positions) {
  std::vector<std::vector<Rows>> all;
  for (auto q = rows.begin; q < rows.end; ++q) {
    auto& runs = all.emplace_back();
    for (std::int64_t u = 0; u < units; ++u) {
      const Number* const of_unit = x.inputs + u * positions * x.columns + q;
      bool is_in = false;
      for (std::int64_t t = 0; t < positions && !is_in; ++t) is_in = of_unit[t * x.columns] != 0;
      if (is_in) matrix::append_run({u, u + 1}, runs);
    }
  }
  return all;
}

}  // namespace

template <class Number>
std::int64_t RowSums<Number>::rows_at_once(std::size_t m) const {
  // In the tail as many in all layers: what is summed of their directions serves all of them.
  std::int64_t of_unit = 0;
  for (std::size_t other = 0; other < factors_.size(); ++other) {
    if (other != m && !(factors_.is_in_tail(m) && factors_.is_in_tail(other))) continue;
    const auto& layer = factors_.layer(other);
    of_unit = std::max(of_unit, layer.positions * layer.outputs + layer.elements);
  }
  const auto bytes = std::max<std::int64_t>(1, factors_.units() * of_unit * static_cast<std::int64_t>(sizeof(Number)));
  return std::max<std::int64_t>(1, bytes_at_once / bytes);
}

template <class Number>
const Sums<Number>& RowSums<Number>::sum(const Slab<Number>& x, const RowsOfOutput& rows,
                                         const OutputFactors<Number>& of_output, std::size_t m) {
  const auto& layer = factors_.layer(m);
  const auto numbers = layer.positions * layer.outputs;
  if (!x.bias && factors_.sums_directions(x.layer, m)) {
    sums_.units.clear();
    factors_.follow_sums(m, sum_directions(x, rows, of_output), rows.count(), sums_);
    return sums_;
  }
  sums_.second.resize(
      static_cast<std::size_t>(rows.count() * factors_.units() * numbers + engines::Strips<Number>::width));
  sums_.derivatives.clear();
  sums_.units.clear();
  if (factors_.depends(x.layer, m) && !x.bias) {
    sum_upstream(x, rows, of_output.second[m].data(), m);
    return sums_;
  }
  if (x.by_input && !x.bias) {
    sums_.units = units_with_inputs(x, rows, factors_.units(), factors_.layer(x.layer).positions);
  }
  sum_positions(x, rows, of_output.second[m].data(), numbers, sums_.second);
  if (!layer.weight || of_output.derivatives[m].empty()) return sums_;
  sums_.derivatives.resize(static_cast<std::size_t>(rows.count() * factors_.units() * layer.elements));
  sum_positions(x, rows, of_output.derivatives[m].data(), layer.elements, sums_.derivatives);
  return sums_;
}

template <class Number>
const Number* RowSums<Number>::sum_directions(const Slab<Number>& x, const RowsOfOutput& rows,
                                              const OutputFactors<Number>& of_output) {
  const OutputOfLayer output{x.layer, x.first_output + rows.output};
  if (output_of_directions_ != output) directions_.clear();
  output_of_directions_ = output;
  auto& sums = directions_[rows.begin];
  const auto numbers = factors_.numbers_of_direction();
  const auto size = static_cast<std::size_t>(factors_.units() * numbers * rows.count());
  if (sums.size() == size) return sums.data();
  sums.resize(size);
  const auto positions = factors_.layer(x.layer).positions;
  for (std::int64_t u = 0; u < factors_.units(); ++u) {
    const auto seen =
        engines::rows_as_factor(x.inputs + u * positions * x.columns + rows.begin, x.columns, positions, rows.count());
    hessian_mpi::engines::multiply(
        engines::Product<Number>{of_output.directions.data() + u * positions * numbers, numbers, seen}, numbers,
        sums.data() + u * numbers * rows.count(), rows.count());
  }
  return sums.data();
}

// Both terms of E in one pass.
template <class Number>
void RowSums<Number>::sum_upstream(const Slab<Number>& x, const RowsOfOutput& rows, const Number* second,
                                   std::size_t m) {
  constexpr auto width = engines::Strips<Number>::width;
  const auto& own = factors_.layer(x.layer);
  const auto numbers = factors_.layer(m).outputs;
  const auto units = factors_.units();
  for (auto q = rows.begin; q < rows.end; ++q) {
    const auto element = own.input_elements[x.group][static_cast<std::size_t>(q)];
    engines::ScaledRows<Number> by_input{own.delta.data() + x.first_output + rows.output, own.outputs, nullptr,
                                         numbers};
    if (element >= 0) by_input.row = factors_.input_derivative(x.layer, element, m);
    engines::combine<Number>(units, numbers, {x.inputs + q, x.columns, second, numbers}, by_input,
                             {sums_.second.data() + (q - rows.begin) * units * numbers, numbers, width});
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
void RowSums<Number>::fill_seen_strips(const Number* elements, const Slab<Number>& y, const std::vector<Rows>& places) {
  const auto& layer = factors_.layer(y.layer);
  seen_strips_.resize(factors_.units() * layer.positions, y.columns);
  line_.resize(static_cast<std::size_t>(y.columns));
  for (const auto& run : places) {
    for (auto place = run.begin; place < run.end; ++place) {
      const Number* line = elements + place * y.columns;
      if (!layer.sees_input_as_it_is) {
        const auto* const of_place = layer.input_elements[y.group].data() + place % layer.positions * y.columns;
        engines::gather(elements + place / layer.positions * layer.elements, of_place, y.columns, line_.data());
        line = line_.data();
      }
      engines::combine<Number>(y.columns, 1, line, 0, nullptr, seen_strips_, place, 0);
    }
  }
}

// What of some places of y's layer a row is not zero in.
template <class Number>
std::vector<Rows> RowSums<Number>::places_of(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y,
                                             const Rows& places) const {
  if (sums.units.empty()) return {places};
  const auto positions = factors_.layer(y.layer).positions;
  std::vector<Rows> runs;
  for (const auto& units : sums.units[static_cast<std::size_t>(i)]) {
    const Rows run{std::max(units.begin * positions, places.begin), std::min(units.end * positions, places.end)};
    if (run.count() > 0) runs.push_back(run);
  }
  return runs;
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
      fill_seen_strips(elements, y, places_of(sums, i, y, {0, places}));
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

// The parts of a product over all places that are in some.
template <class Number>
void RowSums<Number>::append_products(const engines::Product<Number>& product, const std::vector<Rows>& places) {
  for (const auto& run : places) {
    auto& part = products_.emplace_back(product);
    part.left += run.begin * part.left_stride;
    part.right.begin += run.begin * part.right.row_step;
    part.right.inner = run.count();
  }
}

// The columns of an embedding: those of a place are of its word alone.
template <class Number>
template <class Out>
void RowSums<Number>::add_to_words(const LayerData<Number>& layer, const Number* second,
                                   const std::vector<Rows>& places, std::int64_t words, Out* out) {
  line_.assign(static_cast<std::size_t>(words * layer.outputs), Number{0});
  for (const auto& run : places) {
    for (auto place = run.begin; place < run.end; ++place) {
      const auto word = layer.words[static_cast<std::size_t>(place)];
      if (word < 0) continue;
      const auto of_word = line_.begin() + word * layer.outputs;
      const Number* const of_place = second + place * layer.outputs;
      std::transform(of_place, of_place + layer.outputs, of_word, of_word, std::plus<>());
    }
  }
  std::transform(line_.begin(), line_.end(), out, [](Number sum) { return static_cast<Out>(sum); });
}

// The same, summed over some places.
template <class Number>
template <class Out>
void RowSums<Number>::multiply_places(const Sums<Number>& sums, std::int64_t i, const Slab<Number>& y,
                                      const Rows& outputs, const Rows& places, Out* out) {
  const auto& layer = factors_.layer(y.layer);
  const auto all_places = factors_.units() * layer.positions;
  const auto first_output = y.first_output + outputs.begin;
  const Number* const second = sums.second.data() + i * all_places * layer.outputs + first_output;
  const auto first = places.begin * layer.outputs;
  if (y.bias) return engines::add_up(second + first, layer.outputs, outputs.count(), places.count(), out);
  const Number* const delta = layer.delta.data() + first_output;
  const bool downstream = !sums.derivatives.empty();
  if (y.diagonal) {
    const auto begin = first + outputs.begin;
    line_.assign(static_cast<std::size_t>(outputs.count()), Number{0});
    engines::add_up_products<Number>({second + first, y.inputs + begin}, places.count(), layer.outputs, line_);
    if (downstream) {
      engines::add_up_products<Number>({delta + first, derivatives_ + begin}, places.count(), layer.outputs, line_);
    }
    std::transform(line_.begin(), line_.end(), out, [](Number sum) { return static_cast<Out>(sum); });
    return;
  }
  const auto runs = places_of(sums, i, y, places);
  if (layer.embedding) return add_to_words(layer, second, runs, y.columns, out);
  const auto rows = y.by_input ? y.columns : outputs.count();
  const auto stride = y.by_input ? layer.outputs : y.columns;
  products_.clear();
  if (y.by_input) {
    const auto right = [&](const Number* numbers) {
      return engines::rows_as_factor(numbers, layer.outputs, all_places, layer.outputs);
    };
    append_products({y.inputs, y.columns, right(second)}, runs);
    if (downstream) append_products({derivatives_, y.columns, right(delta)}, runs);
  } else {
    append_products({second, layer.outputs, y.strips.factor()}, runs);
    if (downstream) append_products({delta, layer.outputs, seen_strips_.factor()}, runs);
  }
  if (products_.empty()) {
    for (std::int64_t k = 0; k < rows; ++k)
      std::fill_n(out + k * stride, y.by_input ? layer.outputs : y.columns, Out{0});
    return;
  }
  hessian_mpi::engines::multiply(std::span<const engines::Product<Number>>(products_), rows, out, stride);
}

#define HESSIAN_MPI_INSTANTIATE(Number, Out) \
  template void RowSums<Number>::multiply(const Sums<Number>&, std::int64_t, const Slab<Number>&, const Rows&, Out*)
template class RowSums<float>;
template class RowSums<double>;
HESSIAN_MPI_FOR_NUMBERS(HESSIAN_MPI_INSTANTIATE);
#undef HESSIAN_MPI_INSTANTIATE

}  // namespace hessian_mpi::layers
