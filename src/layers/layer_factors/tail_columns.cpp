#include "layer_factors/tail_columns.hpp"

#include <vector>

#include "hessian_mpi/engines/tile.hpp"
#include "number.hpp"

namespace hessian_mpi::layers {

template <class Number>
TailColumns<Number>::TailColumns(const Tail& tail, std::int64_t units)
    : tail_(tail), units_(units), places_(tail.places() / units) {
  const bool as_they_are = tail.by_layers.is_cpu() && tail.by_layers.scalar_type() == dtype_of_number<Number>;
  numbers_ = as_they_are ? tail.by_layers : in_memory(tail.by_layers, dtype_of_number<Number>);
}

template <class Number>
void TailColumns<Number>::follow(std::size_t call, const Number* directions, std::size_t count,
                                 const Destination& second, const Destination& derivatives) const {
  const auto& columns = *tail_.columns_of(call);
  for (std::int64_t u = 0; u < units_; ++u) {
    follow({columns.first_output, columns.first_output + columns.outputs}, u, directions, count, second);
    follow({columns.first_element, columns.first_element + columns.elements}, u, directions, count, derivatives);
  }
}

// Some of a place's numbers. What goes to places at equal distances is one product.
template <class Number>
void TailColumns<Number>::follow(const Rows& numbers, std::int64_t unit, const Number* directions, std::size_t count,
                                 const Destination& to) const {
  const auto features = tail_.features();
  const auto all = static_cast<std::int64_t>(count);
  std::vector<Number*> destinations(count);
  for (std::size_t k = 0; k < count; ++k) destinations[k] = to(k, unit);
  if (destinations.front() == nullptr) return;
  for (std::size_t begin = 0, end = 0; begin < count; begin = end) {
    end = begin + 1;
    const auto distance = end < count ? destinations[end] - destinations[begin] : 0;
    while (end < count && destinations[end] - destinations[end - 1] == distance) ++end;
    for (std::int64_t t = 0; t < places_; ++t) {
      const auto place = unit * places_ + t;
      const auto* const of_place = numbers_.const_data_ptr<Number>() + place * numbers_.stride(0) + numbers.begin;
      const engines::Product<Number> product{
          directions + place * features * all + begin, all,
          engines::rows_as_factor(of_place, numbers_.size(2), features, numbers.count())};
      engines::multiply(product, static_cast<std::int64_t>(end - begin), destinations[begin] + t * numbers.count(),
                        distance);
    }
  }
}

template class TailColumns<float>;
template class TailColumns<double>;

}  // namespace hessian_mpi::layers
