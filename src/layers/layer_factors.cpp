#include "hessian_mpi/layers/layer_factors.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>
#include <variant>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/device.hpp"
#include "layer_factors/column_panels.hpp"
#include "layer_factors/factors.hpp"
#include "layer_factors/own_columns.hpp"
#include "layer_factors/row_sums.hpp"
#include "layer_factors/slab.hpp"

namespace hessian_mpi::layers {
namespace {

template <class Number>
class FactoredRows {
 public:
  FactoredRows(const network::Problem& problem, const LayerStep& step, const std::vector<Rows>& own,
               const EarlierColumns& columns, engines::Engine& others, std::uint64_t memory)
      : problem_(problem),
        columns_(columns),
        others_(others),
        halves_(step.halves),
        factors_(problem, step, memory),
        panels_(factors_),
        own_columns_(factors_),
        sums_(factors_, ones_) {
    std::int64_t places = 0;
    for (std::size_t l = 0; l < factors_.size(); ++l) {
      places = std::max(places, factors_.units() * factors_.layer(l).positions);
    }
    ones_.assign(static_cast<std::size_t>(places), Number{1});
    slabs_ = slabs_of(factors_, problem.index(), ones_);
    factors_.expect(expected(own));
  }

  template <class Out>
  void compute(const Rows& rows, const Rows& columns, Precision storage, Out* out,
               const std::function<void(double)>& advance);
  template <class Out>
  void compute_of_output(std::int64_t first, std::int64_t count, Out* out);
  engines::Passes passes() const { return factors_.passes(); }

 private:
  const Slab<Number>* slab_of(std::int64_t row) const;
  std::vector<OutputOfLayer> expected(const std::vector<Rows>& own) const;
  template <class Out>
  void compute_rows(const Slab<Number>& x, const RowsOfOutput& rows, const Rows& columns, Out* out,
                    std::int64_t stride);
  template <class Out>
  void compute_by_row(const Slab<Number>& x, const Rows& rows, const Rows& columns, Out* out,
                      const std::function<void(double)>& advance);
  template <class Out>
  void sum_rows(const Slab<Number>& x, const RowsOfOutput& rows, const OutputFactors<Number>& of_output, std::size_t m,
                const Rows& columns, Out* out, std::int64_t stride);

  const network::Problem& problem_;
  const EarlierColumns& columns_;
  engines::Engine& others_;  // for rows of none of the step's layers
  bool halves_;              // of what a weight has in its own columns, one is copied
  Factors<Number> factors_;
  std::vector<Number> ones_;
  std::vector<Slab<Number>> slabs_;
  ColumnPanels<Number> panels_;
  OwnColumns<Number> own_columns_;
  RowSums<Number> sums_;
};

// The slab whose rows are made here and hold this one.
template <class Number>
const Slab<Number>* FactoredRows<Number>::slab_of(std::int64_t row) const {
  const auto after = std::upper_bound(slabs_.begin(), slabs_.end(), row,
                                      [](std::int64_t i, const auto& slab) { return i < slab.offset; });
  if (after == slabs_.begin()) return nullptr;
  const auto& slab = *std::prev(after);
  return row < slab.offset + slab.rows() && factors_.makes_rows(slab.layer) ? &slab : nullptr;
}

template <class Number>
std::vector<OutputOfLayer> FactoredRows<Number>::expected(const std::vector<Rows>& own) const {
  std::vector<OutputOfLayer> outputs;
  for (const auto& run : own) {
    for (auto row = run.begin; row < run.end;) {
      const auto* slab = slab_of(row);
      if (slab == nullptr) {
        ++row;
        continue;
      }
      const Rows some{row, std::min(run.end, slab->offset + slab->rows())};
      if (factors_.by_row(slab->layer, slab->bias)) {
        row = some.end;
        continue;
      }
      for (const auto& rows : outputs_in(*slab, some)) {
        outputs.emplace_back(slab->layer, slab->first_output + rows.output);
      }
      row = some.end;
    }
  }
  return outputs;
}

// The columns that a slab has among some of H, counted from its own first.
template <class Number>
Rows columns_in(const Slab<Number>& y, const Rows& columns) {
  const auto begin = std::max(columns.begin - y.offset, std::int64_t{0});
  return {begin, std::max(begin, std::min(columns.end - y.offset, y.rows()))};
}

template <class Number>
template <class Out>
void FactoredRows<Number>::compute_rows(const Slab<Number>& x, const RowsOfOutput& rows, const Rows& columns, Out* out,
                                        std::int64_t stride) {
  const auto& of_output = factors_.of_output({x.layer, x.first_output + rows.output});
  // What panels are filled with serves all rows of an output's weight, and of its bias there is one.
  // Nor has a panel a use for what is zero nearly everywhere, as the inputs of embeddings are.
  const auto& own = factors_.layer(x.layer);
  std::vector<bool> by_sums(factors_.size(), x.bias || own.positions > 1 || own.embedding);
  for (std::size_t m = 0; m < by_sums.size(); ++m) {
    const auto& layer = factors_.layer(m);
    by_sums[m] = by_sums[m] || layer.elementwise || layer.embedding || (!x.bias && factors_.depends(x.layer, m));
  }
  for (const auto& y : slabs_) {
    if (by_sums[y.layer]) continue;
    const Rows some = columns_in(y, columns);
    if (some.count() == 0) continue;
    Out* const to = out + (y.offset + some.begin - columns.begin);
    if (halves_ && &x == &y && own_columns_.serves(x)) {
      own_columns_.multiply(x, rows, of_output, some, to, stride);
    } else {
      panels_.multiply(x, rows, of_output, y, some, to, stride);
    }
  }
  for (std::size_t m = 0; m < by_sums.size(); ++m) {
    if (by_sums[m]) sum_rows(x, rows, of_output, m, columns, out, stride);
  }
}

template <class Number>
template <class Out>
void FactoredRows<Number>::sum_rows(const Slab<Number>& x, const RowsOfOutput& rows,
                                    const OutputFactors<Number>& of_output, std::size_t m, const Rows& columns,
                                    Out* out, std::int64_t stride) {
  const auto is_asked_for = [&](const auto& y) { return y.layer == m && columns_in(y, columns).count() > 0; };
  if (std::none_of(slabs_.begin(), slabs_.end(), is_asked_for)) return;
  const auto at_once = sums_.rows_at_once(m);
  for (auto begin = rows.begin; begin < rows.end; begin += at_once) {
    const RowsOfOutput some{rows.output, begin, std::min(rows.end, begin + at_once)};
    const auto& sums = sums_.sum(x, some, of_output, m);
    for (const auto& y : slabs_) {
      if (!is_asked_for(y)) continue;
      const Rows in_slab = columns_in(y, columns);
      Out* const to = out + (y.offset + in_slab.begin - columns.begin);
      for (std::int64_t i = 0; i < some.count(); ++i) {
        sums_.multiply(sums, i, y, in_slab, to + (begin + i - rows.begin) * stride);
      }
    }
  }
}

// Each from a pass of its own.
template <class Number>
template <class Out>
void FactoredRows<Number>::compute_by_row(const Slab<Number>& x, const Rows& rows, const Rows& columns, Out* out,
                                          const std::function<void(double)>& advance) {
  const auto at_once = factors_.rows_at_once();
  std::vector<Out> more;  // of layers that share a parameter, after the first of them
  std::vector<std::vector<RowOfLayer>> asked;
  for (auto row = rows.begin; row < rows.end;) {
    const auto first = x.offset + (row - x.offset) / at_once * at_once;
    const Rows some{row, std::min(rows.end, first + at_once)};
    asked.assign(static_cast<std::size_t>(at_once), {});
    for (const auto& z : slabs_) {
      if (z.offset != x.offset || !factors_.makes_rows(z.layer)) continue;
      for (auto i = some.begin; i < some.end; ++i)
        asked[static_cast<std::size_t>(i - first)].push_back(row_of_layer(z, i));
    }
    const auto& sums = factors_.of_rows(asked);
    for (std::size_t k = 0; k < slabs_.size(); ++k) {
      const auto& y = slabs_[k];
      const Rows in_slab = columns_in(y, columns);
      if (in_slab.count() == 0) continue;
      Out* const to = out + (y.offset + in_slab.begin - columns.begin);
      const bool again = k > 0 && slabs_[k - 1].offset == y.offset;
      more.resize(static_cast<std::size_t>(again ? in_slab.count() : 0));
      for (auto i = some.begin; i < some.end; ++i) {
        Out* const row_of_y = to + (i - rows.begin) * columns.count();
        sums_.multiply(sums[y.layer], i - first, y, in_slab, again ? more.data() : row_of_y);
        std::transform(more.begin(), more.end(), row_of_y, row_of_y, std::plus<>());
      }
    }
    advance(static_cast<double>(some.count()));
    row = some.end;
  }
}

template <class Number>
template <class Out>
void FactoredRows<Number>::compute(const Rows& rows, const Rows& columns, Precision storage, Out* out,
                                   const std::function<void(double)>& advance) {
  const auto n = columns.count();
  const bool whole = n == problem_.index().size();
  for (auto row = rows.begin; row < rows.end;) {
    Out* const to = out + (row - rows.begin) * n;
    const auto* slab = slab_of(row);
    Rows some{row, row + 1};
    if (slab == nullptr) {
      while (some.end < rows.end && slab_of(some.end) == nullptr) ++some.end;
      others_.compute(some, columns, storage, to, advance);
    } else {
      some.end = std::min(rows.end, slab->offset + slab->rows());
      const bool by_row = factors_.by_row(slab->layer, slab->bias);
      if (by_row) compute_by_row(*slab, some, columns, to, advance);
      for (const auto& of_output : by_row ? std::vector<RowsOfOutput>() : outputs_in(*slab, some)) {
        compute_rows(*slab, of_output, columns, to + (slab->row(of_output.output, of_output.begin) - row) * n,
                     slab->step() * n);
        advance(static_cast<double>(of_output.count()));
      }
      if (whole) columns_.fill(some, to, n);
    }
    row = some.end;
  }
}

template <class Number>
template <class Out>
void FactoredRows<Number>::compute_of_output(std::int64_t first, std::int64_t count, Out* out) {
  const auto& slab = *slab_of(first);
  const auto n = problem_.index().size();
  const RowsOfOutput of_first = outputs_in(slab, {first, first + 1}).front();
  compute_rows(slab, {of_first.output, of_first.begin, of_first.begin + count}, {0, n}, out, n);
}

}  // namespace

class LayerFactors::Assembly {
 public:
  template <class... Arguments>
  explicit Assembly(Precision accumulate, Arguments&... arguments)
      : rows_(accumulate == Precision::float32 ? Either(std::in_place_type<FactoredRows<float>>, arguments...)
                                               : Either(std::in_place_type<FactoredRows<double>>, arguments...)) {}

  template <class Out>
  void compute(const Rows& rows, const Rows& columns, Precision storage, Out* out,
               const std::function<void(double)>& advance) {
    std::visit([&](auto& some) { some.compute(rows, columns, storage, out, advance); }, rows_);
  }
  template <class Out>
  void compute_of_output(std::int64_t first, std::int64_t count, Out* out) {
    std::visit([&](auto& some) { some.compute_of_output(first, count, out); }, rows_);
  }
  engines::Passes passes() const {
    return std::visit([](const auto& some) { return some.passes(); }, rows_);
  }

 private:
  using Either = std::variant<FactoredRows<float>, FactoredRows<double>>;
  Either rows_;
};

LayerFactors::LayerFactors(const network::Problem& problem, const LayerStep& step, const std::vector<Rows>& own,
                           const EarlierColumns& columns, engines::Engine& others, Precision accumulate,
                           std::uint64_t memory)
    : device_(problem.device()),
      assembly_(std::make_unique<Assembly>(accumulate, problem, step, own, columns, others, memory)) {}

LayerFactors::~LayerFactors() = default;

engines::Passes LayerFactors::passes() const {
  return assembly_->passes();
}

void LayerFactors::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                           const std::function<void(double)>& advance) {
  const network::OnDevice on_device(device_);
  engines::with_numbers(storage, out,
                        [&](auto* numbers) { assembly_->compute(rows, columns, storage, numbers, advance); });
}

void LayerFactors::compute_of_output(std::int64_t first, std::int64_t count, Precision storage, void* out) {
  const network::OnDevice on_device(device_);
  engines::with_numbers(storage, out, [&](auto* numbers) { assembly_->compute_of_output(first, count, numbers); });
}

}  // namespace hessian_mpi::layers
