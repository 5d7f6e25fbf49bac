#include "hessian_mpi/layer_factors.hpp"

#include <algorithm>
#include <utility>
#include <variant>

#include "hessian_mpi/error.hpp"
#include "layer_factors/factors.hpp"
#include "layer_factors/tile.hpp"

namespace hessian_mpi {
namespace {

constexpr std::int64_t panel_bytes = 256 << 10;  // half of a core's second cache
constexpr std::int64_t widest_panel = 8192;

/// The rows, and columns, of a parameter of a factored layer; of a grouped convolution's weight those of one group. Row
/// p * columns + q of it belongs to output p of the layer and column q of the weight.
template <class Number>
struct Slab {
  std::size_t layer = 0;
  std::size_t group = 0;
  bool bias = false;
  std::int64_t offset = 0;  // of its first row in H
  std::int64_t first_output = 0;
  std::int64_t outputs = 0;
  std::int64_t columns = 1;
  Strips<Number> inputs;  // a, [u][t] by columns
  std::int64_t rows() const { return outputs * columns; }
};

/// What all rows of one output share.
template <class Number>
struct OutputFactors {
  OutputOfLayer output;
  const std::vector<std::vector<Number>>* second = nullptr;  // S
  std::vector<std::vector<Number>> derivatives;  // J of each layer by this output: [u][t][elements], or none
};

template <class Number>
class FactoredRows {
 public:
  FactoredRows(const Problem& problem, const LayerPlan& plan, const std::vector<Rows>& own, const PlainColumns& columns,
               Engine& row_by_row, std::uint64_t memory, const Communicator& communicator)
      : problem_(problem), columns_(columns), row_by_row_(row_by_row), factors_(problem, plan, memory, communicator) {
    communicator.together([&] {
      for (std::size_t l = 0; l < factors_.size(); ++l) append_slabs(l);
      std::sort(slabs_.begin(), slabs_.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
      factors_.expect(outputs_in(own));
    });
  }

  template <class Out>
  void compute(const Rows& rows, Precision storage, Out* out, const std::function<void(double)>& advance);

 private:
  void append_slabs(std::size_t l);
  const Slab<Number>* slab_of(std::int64_t row) const;
  std::vector<OutputOfLayer> outputs_in(const std::vector<Rows>& own) const;
  OutputOfLayer output_of(const Slab<Number>& slab, std::int64_t row) const {
    return {slab.layer, slab.first_output + (row - slab.offset) / slab.columns};
  }
  void set_output(const OutputOfLayer& output);
  template <class Out>
  void compute_rows(const Slab<Number>& x, const Rows& rows, Out* out);
  template <class Out>
  void multiply_panels(const Slab<Number>& x, const Rows& rows, const Slab<Number>& y, Out* out);
  void fill_panel(const Slab<Number>& y, std::int64_t column);
  void fill_line(const Slab<Number>& y, std::int64_t k, std::int64_t r, std::int64_t s, std::int64_t count);
  template <class Out>
  void multiply_by_row(const Slab<Number>& x, const Rows& rows, std::size_t upstream, const Slab<Number>& y, Out* out);
  void fill_row_factor(const Slab<Number>& x, std::int64_t q, std::size_t upstream, const Slab<Number>& y);

  const Problem& problem_;
  const PlainColumns& columns_;
  Engine& row_by_row_;  // for rows of no factored layer
  Factors<Number> factors_;
  std::vector<Slab<Number>> slabs_;
  OutputFactors<Number> output_;
  Strips<Number> panel_;
  std::vector<Number> line_;
  std::vector<Number> row_factor_;  // [u][t of y][outputs of y]
  std::vector<Number> ones_;
};

template <class Number>
void FactoredRows<Number>::append_slabs(std::size_t l) {
  const auto& layer = factors_.layer(l);
  const auto& entries = problem_.index().entries();
  const auto places = factors_.units() * layer.positions;
  ones_.resize(std::max(ones_.size(), static_cast<std::size_t>(places)), Number{1});
  const auto append = [&](Slab<Number> slab, const Number* inputs) {
    slab.inputs.resize(places, slab.columns);
    for (std::int64_t k = 0; k < places; ++k) {
      combine<Number>(slab.columns, 1, inputs + k * slab.columns, 0, nullptr, slab.inputs, k, 0);
    }
    slabs_.push_back(std::move(slab));
  };
  const auto outputs = layer.outputs / layer.groups;
  for (std::int64_t g = 0; layer.weight && g < layer.groups; ++g) {
    const auto group = static_cast<std::size_t>(g);
    append({l,
            group,
            false,
            entries[*layer.weight].offset + g * outputs * layer.columns,
            g * outputs,
            outputs,
            layer.columns,
            {}},
           layer.inputs[group].data());
  }
  if (layer.bias) append({l, 0, true, entries[*layer.bias].offset, 0, layer.outputs, 1, {}}, ones_.data());
}

template <class Number>
const Slab<Number>* FactoredRows<Number>::slab_of(std::int64_t row) const {
  const auto after = std::upper_bound(slabs_.begin(), slabs_.end(), row,
                                      [](std::int64_t i, const auto& slab) { return i < slab.offset; });
  if (after == slabs_.begin()) return nullptr;
  const auto& slab = *std::prev(after);
  return row < slab.offset + slab.rows() ? &slab : nullptr;
}

template <class Number>
std::vector<OutputOfLayer> FactoredRows<Number>::outputs_in(const std::vector<Rows>& own) const {
  std::vector<OutputOfLayer> outputs;
  for (const auto& run : own) {
    for (auto row = run.begin; row < run.end; ++row) {
      const auto* slab = slab_of(row);
      if (slab == nullptr) continue;
      const auto output = output_of(*slab, row);
      if (outputs.empty() || outputs.back() != output) outputs.push_back(output);
    }
  }
  return outputs;
}

template <class Number>
void FactoredRows<Number>::set_output(const OutputOfLayer& output) {
  if (output_.second != nullptr && output_.output == output) return;
  output_.output = output;
  output_.second = &factors_.second_derivatives(output);
  output_.derivatives.assign(factors_.size(), {});
  const auto [l, p] = output;
  const auto positions = factors_.layer(l).positions;
  const auto outputs = factors_.layer(l).outputs;
  const auto places = factors_.units() * positions;
  for (std::size_t m = 0; m < factors_.size(); ++m) {
    const auto& layer = factors_.layer(m);
    const auto found = std::find(layer.upstream.begin(), layer.upstream.end(), l);
    if (found == layer.upstream.end()) continue;
    const auto& all = layer.derivatives[static_cast<std::size_t>(found - layer.upstream.begin())];
    auto& mine = output_.derivatives[m];
    mine.resize(static_cast<std::size_t>(places * layer.elements));
    for (std::int64_t e = 0; e < layer.elements; ++e) {
      for (std::int64_t k = 0; k < places; ++k) {
        mine[static_cast<std::size_t>(k * layer.elements + e)] =
            all[static_cast<std::size_t>((e * places + k) * outputs + p)];
      }
    }
  }
}

// Rows of one output p: for each y whose z the input of x does not depend on, or for all where x is a bias:
//   H[(p, q), (r, s)] = sum_k a_x[k, q] * M[k, (r, s)],  M = sum_t S[k, p; t, r] a_y[t, s] + delta_y[t, r] J_y[t, s; k,
//   p]
// and for a y upstream of x, for one row q at a time:
//   H[(p, q), (r, s)] = sum_k E[k, r] * a_y[k, s],       E = sum_t a_x[t, q] S[t, p; k, r] + delta_x[t, p] J_x[t, q; k,
//   r]
template <class Number>
template <class Out>
void FactoredRows<Number>::compute_rows(const Slab<Number>& x, const Rows& rows, Out* out) {
  set_output(output_of(x, rows.begin));
  const auto& upstream = factors_.layer(x.layer).upstream;
  for (const auto& y : slabs_) {
    const auto found = std::find(upstream.begin(), upstream.end(), y.layer);
    if (x.bias || found == upstream.end()) {
      multiply_panels(x, rows, y, out);
    } else {
      multiply_by_row(x, rows, static_cast<std::size_t>(found - upstream.begin()), y, out);
    }
  }
}

template <class Number>
template <class Out>
void FactoredRows<Number>::multiply_panels(const Slab<Number>& x, const Rows& rows, const Slab<Number>& y, Out* out) {
  const auto& layer = factors_.layer(x.layer);
  const auto places = factors_.units() * layer.positions;
  const auto n = problem_.index().size();
  constexpr auto width = Strips<Number>::width;
  const auto fitting = panel_bytes / (places * static_cast<std::int64_t>(sizeof(Number))) / width * width;
  const auto panel = std::clamp<std::int64_t>(fitting, 4 * width, widest_panel);
  const auto q = (rows.begin - x.offset) % x.columns;
  const Number* left = x.bias ? ones_.data() : layer.inputs[x.group].data() + q;
  for (std::int64_t column = 0; column < y.rows(); column += panel) {
    panel_.resize(places, std::min(panel, y.rows() - column));
    fill_panel(y, column);
    multiply(left, x.columns, rows.count(), panel_, out + y.offset + column, n);
  }
}

// M in the columns of y from one on.
template <class Number>
void FactoredRows<Number>::fill_panel(const Slab<Number>& y, std::int64_t column) {
  const auto& layer = factors_.layer(y.layer);
  const auto& second = (*output_.second)[y.layer];
  const auto& derivatives = output_.derivatives[y.layer];
  const bool with_derivatives = !y.bias && !derivatives.empty();
  // A layer with one position whose weight sees its input as it is: both terms are rows of arrays.
  const bool simple = layer.positions == 1 && (y.bias || layer.elements == y.columns);
  const auto places = panel_.inner();
  const auto places_of_unit = places / factors_.units();
  for (std::int64_t k = 0; k < places; ++k) {
    const auto u = k / places_of_unit;
    for (std::int64_t done = 0; done < panel_.columns();) {
      const auto r = y.first_output + (column + done) / y.columns;
      const auto s = (column + done) % y.columns;
      // A bias has one column for each output: as many as are left are done at once.
      const auto count = y.bias ? panel_.columns() - done : std::min(y.columns - s, panel_.columns() - done);
      if (simple && y.bias) {
        combine<Number>(count, 1, second.data() + k * layer.outputs + r, 0, nullptr, panel_, k, done);
      } else if (simple) {
        const Number* inputs = layer.inputs[y.group].data() + u * y.columns + s;
        const Number* more = with_derivatives ? derivatives.data() + k * layer.elements + s : nullptr;
        combine<Number>(count, second[static_cast<std::size_t>(k * layer.outputs + r)], inputs,
                        layer.delta[static_cast<std::size_t>(u * layer.outputs + r)], more, panel_, k, done);
      } else {
        fill_line(y, k, r, s, count);
        combine<Number>(count, 1, line_.data(), 0, nullptr, panel_, k, done);
      }
      done += count;
    }
  }
}

// The same, of any layer, from column s of output r on (of a bias: from output r on), summed over positions.
template <class Number>
void FactoredRows<Number>::fill_line(const Slab<Number>& y, std::int64_t k, std::int64_t r, std::int64_t s,
                                     std::int64_t count) {
  const auto& layer = factors_.layer(y.layer);
  const Number* second = (*output_.second)[y.layer].data() + k * layer.positions * layer.outputs;
  const auto u = k / (panel_.inner() / factors_.units());
  line_.assign(static_cast<std::size_t>(count), Number{0});
  if (y.bias) {
    for (std::int64_t t = 0; t < layer.positions; ++t) {
      accumulate<Number>(count, 1, second + t * layer.outputs + r, line_.data());
    }
    return;
  }
  const auto& derivatives = output_.derivatives[y.layer];
  for (std::int64_t t = 0; t < layer.positions; ++t) {
    const auto place = u * layer.positions + t;
    accumulate<Number>(count, second[t * layer.outputs + r], layer.inputs[y.group].data() + place * y.columns + s,
                       line_.data());
    if (derivatives.empty()) continue;
    const Number* const of_unit = derivatives.data() + k * layer.elements;
    const Number delta = layer.delta[static_cast<std::size_t>(place * layer.outputs + r)];
    const std::int64_t* const elements = layer.input_elements[y.group].data() + t * y.columns + s;
    for (std::int64_t i = 0; i < count; ++i) {
      if (elements[i] >= 0) line_[static_cast<std::size_t>(i)] += delta * of_unit[elements[i]];
    }
  }
}

template <class Number>
template <class Out>
void FactoredRows<Number>::multiply_by_row(const Slab<Number>& x, const Rows& rows, std::size_t upstream,
                                           const Slab<Number>& y, Out* out) {
  const auto n = problem_.index().size();
  const auto places = factors_.units() * factors_.layer(y.layer).positions;
  row_factor_.resize(static_cast<std::size_t>(places * y.outputs));
  for (auto row = rows.begin; row < rows.end; ++row) {
    fill_row_factor(x, (row - x.offset) % x.columns, upstream, y);
    Out* const to = out + (row - rows.begin) * n + y.offset;
    if (y.bias) {
      add_up(row_factor_.data(), y.outputs, y.outputs, places, to);
    } else {
      multiply(row_factor_.data(), y.outputs, y.outputs, y.inputs, to, y.columns);
    }
  }
}

// E of one row.
template <class Number>
void FactoredRows<Number>::fill_row_factor(const Slab<Number>& x, std::int64_t q, std::size_t upstream,
                                           const Slab<Number>& y) {
  const auto& own = factors_.layer(x.layer);
  const auto& other = factors_.layer(y.layer);
  const auto& second = (*output_.second)[y.layer];
  const auto& derivatives = own.derivatives[upstream];
  const auto places = factors_.units() * other.positions;
  const auto p = output_.output.second;
  for (std::int64_t u = 0; u < factors_.units(); ++u) {
    for (std::int64_t t = 0; t < own.positions; ++t) {
      const auto place = u * own.positions + t;
      const auto element = own.input_elements[x.group][static_cast<std::size_t>(t * x.columns + q)];
      const Number input = own.inputs[x.group][static_cast<std::size_t>(place * x.columns + q)];
      const Number delta = own.delta[static_cast<std::size_t>(place * own.outputs + p)];
      for (std::int64_t v = 0; v < other.positions; ++v) {
        const auto k = u * other.positions + v;
        const Number* s = second.data() + (place * other.positions + v) * other.outputs + y.first_output;
        const Number* j =
            element < 0 ? nullptr : derivatives.data() + (element * places + k) * other.outputs + y.first_output;
        Number* const to = row_factor_.data() + k * y.outputs;
        if (t == 0) {
          combine<Number>(y.outputs, input, s, delta, j, to);
        } else {
          accumulate(y.outputs, input, s, to);
          if (j != nullptr) accumulate(y.outputs, delta, j, to);
        }
      }
    }
  }
}

template <class Number>
template <class Out>
void FactoredRows<Number>::compute(const Rows& rows, Precision storage, Out* out,
                                   const std::function<void(double)>& advance) {
  const auto n = problem_.index().size();
  for (auto row = rows.begin; row < rows.end;) {
    Out* const to = out + (row - rows.begin) * n;
    const auto* slab = slab_of(row);
    Rows some{row, row + 1};
    if (slab == nullptr) {
      while (some.end < rows.end && slab_of(some.end) == nullptr) ++some.end;
      row_by_row_.compute(some, storage, to, advance);
    } else {
      const auto end_of_output = row - (row - slab->offset) % slab->columns + slab->columns;
      some.end = std::min(rows.end, end_of_output);
      compute_rows(*slab, some, to);
      for (auto i = some.begin; i < some.end; ++i) columns_.fill(i, to + (i - some.begin) * n);
      advance(static_cast<double>(some.count()));
    }
    row = some.end;
  }
}

}  // namespace

class LayerFactors::Assembly {
 public:
  template <class... Arguments>
  explicit Assembly(Precision accumulate, Arguments&... arguments)
      : rows_(accumulate == Precision::float32 ? Either(std::in_place_type<FactoredRows<float>>, arguments...)
                                               : Either(std::in_place_type<FactoredRows<double>>, arguments...)) {}

  template <class Out>
  void compute(const Rows& rows, Precision storage, Out* out, const std::function<void(double)>& advance) {
    std::visit([&](auto& some) { some.compute(rows, storage, out, advance); }, rows_);
  }

 private:
  using Either = std::variant<FactoredRows<float>, FactoredRows<double>>;
  Either rows_;
};

LayerFactors::LayerFactors(const Problem& problem, const LayerPlan& plan, const std::vector<Rows>& own,
                           const PlainColumns& columns, Engine& row_by_row, Precision accumulate, std::uint64_t memory,
                           const Communicator& communicator)
    : assembly_(std::make_unique<Assembly>(accumulate, problem, plan, own, columns, row_by_row, memory, communicator)) {
}

LayerFactors::~LayerFactors() = default;

void LayerFactors::compute(const Rows& rows, Precision storage, void* out, const std::function<void(double)>& advance) {
  if (storage == Precision::float32) {
    assembly_->compute(rows, storage, static_cast<float*>(out), advance);
  } else {
    assembly_->compute(rows, storage, static_cast<double*>(out), advance);
  }
}

}  // namespace hessian_mpi
