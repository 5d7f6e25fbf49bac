#include "hessian_mpi/layers/jacobian_factors.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "hessian_mpi/engines/tile.hpp"
#include "hessian_mpi/ranks/together_until_done.hpp"
#include "output_pass.hpp"

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

constexpr std::int64_t panel_bytes = 256 << 10;  // half of a core's second cache
// Summed up in the precision of J, before float64. Part of what decides the bytes of the matrix.
constexpr std::int64_t outputs_of_piece = 512;

template <class Number>
Number* copy_into(Number* to, const Tensor& tensor) {
  constexpr auto dtype = std::is_same_v<Number, float> ? at::kFloat : at::kDouble;
  const Tensor numbers = tensor.detach().to(at::kCPU, dtype).contiguous();
  std::memcpy(to, numbers.const_data_ptr<Number>(), static_cast<std::size_t>(numbers.numel()) * sizeof(Number));
  return to + numbers.numel();
}

/// What passes have found, an item for each, and where in an item each number lies. The items of a batch of S samples:
/// with C outputs of each sample that a pass serves at once,
///   - the inputs of products, [S, columns] for each parameter that is kept so,
///   - for each of the C outputs the parameters of layers, [S, deltas] of a product and [S, elements] of others, and a
///     row of A for each sample, [S, C];
/// with other parameters, for each of all outputs a row of J in their columns; and where samples interact, of A.
class Layout {
 public:
  Layout(const network::Problem& problem, const JacobianPlan& plan)
      : plan_(plan), others_(plan.others()), places_(plan.columns.size()) {
    const auto& entries = problem.index().entries();
    for (std::size_t p = 0; p < places_.size(); ++p) {
      const auto& columns = plan.columns[p];
      const bool product = columns && columns->product;
      auto& before = columns ? numbers_of_sample_ : numbers_of_others_;
      places_[p] = {before, product ? columns->outputs : entries[p].size, inputs_of_sample_};
      before += places_[p].width;
      if (product) inputs_of_sample_ += columns->inputs;
    }
    begins_.push_back(0);
    for (std::int64_t b = 0; b < problem.batches(); ++b) {
      samples_.push_back(problem.samples_in(b).count());
      first_items_.push_back(items());
      const auto c = plan.outputs_of_sample;
      const auto k = outputs(b);
      if (c > 0) add_item(samples_.back() * inputs_of_sample_);
      for (std::int64_t i = 0; i < c; ++i) add_item(samples_.back() * (numbers_of_sample_ + c));
      for (std::int64_t i = 0; i < k && !others_.empty(); ++i) add_item(numbers_of_others_ + (c > 0 ? 0 : k));
    }
    first_items_.push_back(items());
  }

  struct Place {
    std::int64_t before = 0;  ///< numbers of a sample, or of a row, before those of the parameter
    std::int64_t width = 0;
    std::int64_t inputs_before = 0;  ///< the same, of the inputs of products
  };
  const Place& place(std::size_t parameter) const { return places_[parameter]; }
  const JacobianPlan& plan() const { return plan_; }
  const std::vector<std::size_t>& others() const { return others_; }
  std::int64_t outputs(std::int64_t batch) const { return plan_.outputs[static_cast<std::size_t>(batch)]; }
  std::int64_t samples(std::int64_t batch) const { return samples_[static_cast<std::size_t>(batch)]; }
  std::int64_t numbers_of_sample() const { return numbers_of_sample_; }
  std::int64_t numbers_of_others() const { return numbers_of_others_; }

  std::int64_t items() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
  /// The first item of a batch, or, one past the last, their end.
  std::int64_t first_item(std::int64_t batch) const { return first_items_[static_cast<std::size_t>(batch)]; }
  std::int64_t begin(std::int64_t item) const { return begins_[static_cast<std::size_t>(item)]; }
  std::int64_t batch_of(std::int64_t item) const {
    return std::upper_bound(first_items_.begin(), first_items_.end(), item) - first_items_.begin() - 1;
  }
  /// Of a batch, counted from its first.
  std::int64_t item_of_pass(std::int64_t output) const { return 1 + output; }
  std::int64_t item_of_row(std::int64_t output) const {
    return (plan_.outputs_of_sample > 0 ? 1 + plan_.outputs_of_sample : 0) + output;
  }

 private:
  void add_item(std::int64_t numbers) { begins_.push_back(begins_.back() + numbers); }

  const JacobianPlan& plan_;
  std::vector<std::size_t> others_;
  std::vector<Place> places_;
  std::int64_t numbers_of_sample_ = 0;
  std::int64_t inputs_of_sample_ = 0;
  std::int64_t numbers_of_others_ = 0;
  std::vector<std::int64_t> samples_;      // of each batch
  std::vector<std::int64_t> first_items_;  // of each batch, and the end
  std::vector<std::int64_t> begins_;       // of each item, in numbers, and the end
};

/// Makes items: runs batches forward, one at a time, and back.
class Passes {
 public:
  Passes(const network::Problem& problem, const Layout& layout) : problem_(problem), layout_(layout) {
    for (const auto& columns : layout.plan().columns) {
      if (columns) calls_.push_back(columns->call);
    }
    std::sort(calls_.begin(), calls_.end());
    calls_.erase(std::unique(calls_.begin(), calls_.end()), calls_.end());
    for (const auto p : layout.others()) others_.push_back(problem.parameters()[p]);
  }

  template <class Number>
  void derive(std::int64_t item, Number* to) {
    const auto batch = layout_.batch_of(item);
    if (!forward_ || batch != batch_) {
      forward_.reset();  // the old graph's memory before the new one's
      forward_ = capture_layers(problem_, batch);
      batch_ = batch;
    }
    const auto c = layout_.plan().outputs_of_sample;
    const auto k = item - layout_.first_item(batch);
    if (c > 0 && k == 0) return put_inputs(to);
    if (k < layout_.item_of_row(0)) return put_samples(k - layout_.item_of_pass(0), to);
    put_row(k - layout_.item_of_row(0), to);
  }

 private:
  LayerOrder order(std::size_t parameter) const {
    return {Unit::sample, layout_.samples(batch_), layout_.plan().columns[parameter]->samples_last};
  }

  template <class Number>
  void put_inputs(Number* to) const {
    const auto& columns = layout_.plan().columns;
    for (std::size_t p = 0; p < columns.size(); ++p) {
      if (columns[p] && columns[p]->product) {
        to = copy_into(to, input_patches(forward_->calls[columns[p]->call], 0, order(p)));
      }
    }
  }

  template <class Number>
  void put_samples(std::int64_t output, Number* to) const {
    const auto& columns = layout_.plan().columns;
    const Tensor x = at::zeros_like(forward_->outputs.y.detach());
    x.view({-1, layout_.plan().outputs_of_sample}).select(1, output).fill_(1);
    const auto deltas = derivatives_of_outputs(*forward_, x, calls_, {});
    for (std::size_t p = 0; p < columns.size(); ++p) {
      if (!columns[p]) continue;
      const auto place = std::lower_bound(calls_.begin(), calls_.end(), columns[p]->call) - calls_.begin();
      const auto& delta = deltas[static_cast<std::size_t>(place)];
      const auto& call = forward_->calls[columns[p]->call];
      to = copy_into(to, columns[p]->product ? output_by_unit(delta, call, order(p))
                                             : gradient_by_unit(delta, call, columns[p]->bias, order(p)));
    }
    copy_into(to, forward_->outputs.times(x));
  }

  template <class Number>
  void put_row(std::int64_t output, Number* to) const {
    const Tensor x = at::zeros_like(forward_->outputs.y.detach());
    x[output] = 1;
    for (const auto& part : derivatives_of_outputs(*forward_, x, {}, others_)) to = copy_into(to, part);
    if (layout_.plan().outputs_of_sample == 0) copy_into(to, forward_->outputs.times(x));
  }

  const network::Problem& problem_;
  const Layout& layout_;
  std::vector<std::size_t> calls_;
  std::vector<Tensor> others_;
  std::optional<CapturedForward> forward_;
  std::int64_t batch_ = 0;
};

template <class Number>
class BatchFactors {
 public:
  BatchFactors(const network::Problem& problem, const JacobianPlan& plan, const ranks::Communicator& communicator,
               const std::function<void()>& between)
      : problem_(problem), layout_(problem, plan), passes_(problem, layout_) {
    if (!plan.kept) return;
    const auto items = layout_.items();
    numbers_.resize(static_cast<std::size_t>(layout_.begin(items)));
    std::vector<std::int64_t> bytes{0};
    for (std::int64_t rank = 1; rank <= communicator.size(); ++rank) {
      bytes.push_back(layout_.begin(items * rank / communicator.size()) * static_cast<std::int64_t>(sizeof(Number)));
    }
    const auto first = items * communicator.rank() / communicator.size();
    const auto own = items * (communicator.rank() + 1) / communicator.size() - first;
    Passes passes(problem, layout_);  // whose graph goes with it
    const auto derive_next = [&](std::size_t done) {
      const auto item = first + static_cast<std::int64_t>(done);
      passes.derive(item, numbers_.data() + layout_.begin(item));
      return std::size_t{1};
    };
    ranks::together_until_done(static_cast<std::size_t>(own), derive_next, between, communicator);
    communicator.complete(reinterpret_cast<char*>(numbers_.data()), bytes);
  }

  // Passes refer to the layout.
  BatchFactors(const BatchFactors&) = delete;
  BatchFactors& operator=(const BatchFactors&) = delete;

  template <class Out>
  void multiply(const Rows& rows, const Rows& columns, Out* out, const std::function<void(double)>& advance);

 private:
  void derive_batch(std::int64_t batch);
  const Number* item(std::int64_t batch, std::int64_t k) const {
    const auto first = layout_.first_item(batch);
    return numbers_.data() + layout_.begin(first + k) - (layout_.plan().kept ? 0 : layout_.begin(first));
  }
  // Calls put(count, scale, numbers, place) for what row k of a batch's J has in some columns: scale times numbers.
  template <class Put>
  void each_in_row(std::int64_t batch, std::int64_t k, const Rows& columns, const Put& put) const;
  template <class Put>
  void each_in_product(std::int64_t batch, std::int64_t k, std::size_t parameter, const Rows& elements,
                       std::int64_t place, const Put& put) const;
  void weigh(std::int64_t batch, const Rows& rows);
  // Calls with(first output, outputs, first column, columns) for panels of a batch's J, in the panel_.
  template <class With>
  void each_panel(std::int64_t batch, const Rows& columns, const With& with);

  const network::Problem& problem_;
  Layout layout_;
  Passes passes_;                // where J is not kept
  std::vector<Number> numbers_;  // of all items, or of those of a batch
  std::vector<Number> rows_;     // of a batch: J[:, rows]
  std::vector<Number> left_;     // (A J)[:, rows]
  engines::Strips<Number> panel_;
  std::vector<Number> partial_;
  std::vector<double> sums_;
};

template <class Number>
void BatchFactors<Number>::derive_batch(std::int64_t batch) {
  const auto first = layout_.first_item(batch);
  const auto end = layout_.first_item(batch + 1);
  numbers_.resize(static_cast<std::size_t>(layout_.begin(end) - layout_.begin(first)));
  for (auto i = first; i < end; ++i) passes_.derive(i, numbers_.data() + layout_.begin(i) - layout_.begin(first));
}

template <class Number>
template <class Put>
void BatchFactors<Number>::each_in_product(std::int64_t batch, std::int64_t k, std::size_t parameter,
                                           const Rows& elements, std::int64_t at, const Put& put) const {
  const auto& of = *layout_.plan().columns[parameter];
  const auto& place = layout_.place(parameter);
  const auto c = layout_.plan().outputs_of_sample;
  const auto samples = layout_.samples(batch);
  const Number* const delta = item(batch, layout_.item_of_pass(k % c)) + samples * place.before + k / c * place.width;
  const Number* const input = item(batch, 0) + samples * place.inputs_before + k / c * of.inputs;
  const Number* const outer = of.by_input ? input : delta;
  const Number* const inner = of.by_input ? delta : input;
  const auto count = of.by_input ? of.outputs : of.inputs;
  for (auto e = elements.begin; e < elements.end;) {
    const auto from = e % count;
    const auto some = std::min(count - from, elements.end - e);
    put(some, outer[e / count], inner + from, at + e - elements.begin);
    e += some;
  }
}

template <class Number>
template <class Put>
void BatchFactors<Number>::each_in_row(std::int64_t batch, std::int64_t k, const Rows& columns, const Put& put) const {
  const auto& entries = problem_.index().entries();
  const auto c = layout_.plan().outputs_of_sample;
  for (auto p = problem_.index().locate(columns.begin).parameter; p < entries.size(); ++p) {
    const auto offset = entries[p].offset;
    if (offset >= columns.end) break;
    const Rows elements{std::max(columns.begin, offset) - offset,
                        std::min(columns.end, offset + entries[p].size) - offset};
    const auto at = offset + elements.begin - columns.begin;
    const auto& of = layout_.plan().columns[p];
    const auto& place = layout_.place(p);
    if (of && of->product) {
      each_in_product(batch, k, p, elements, at, put);
    } else {
      const Number* const row =
          of ? item(batch, layout_.item_of_pass(k % c)) + layout_.samples(batch) * place.before + k / c * place.width
             : item(batch, layout_.item_of_row(k)) + place.before;
      put(elements.count(), Number{1}, row + elements.begin, at);
    }
  }
}

template <class Number>
void BatchFactors<Number>::weigh(std::int64_t batch, const Rows& rows) {
  const auto count = rows.count();
  const auto outputs = layout_.outputs(batch);
  rows_.resize(static_cast<std::size_t>(outputs * count));
  left_.assign(static_cast<std::size_t>(outputs * count), Number{0});
  for (std::int64_t k = 0; k < outputs; ++k) {
    each_in_row(batch, k, rows, [&](std::int64_t some, Number scale, const Number* from, std::int64_t at) {
      std::transform(from, from + some, rows_.data() + k * count + at, [=](Number x) { return scale * x; });
    });
  }
  const auto of_sample = layout_.plan().outputs_of_sample;
  const auto together = of_sample > 0 ? of_sample : outputs;  // what A lets meet
  for (std::int64_t k = 0; k < outputs; ++k) {
    const auto first = k / together * together;
    const Number* const weights = of_sample > 0 ? item(batch, layout_.item_of_pass(k % together)) +
                                                      layout_.samples(batch) * layout_.numbers_of_sample() + first
                                                : item(batch, layout_.item_of_row(k)) + layout_.numbers_of_others();
    for (std::int64_t other = 0; other < together; ++other) {
      if (weights[other] == 0) continue;
      engines::accumulate<Number>(count, weights[other], rows_.data() + (first + other) * count,
                                  left_.data() + k * count);
    }
  }
}

template <class Number>
template <class With>
void BatchFactors<Number>::each_panel(std::int64_t batch, const Rows& columns, const With& with) {
  constexpr auto width = engines::Strips<Number>::width;
  const auto outputs = layout_.outputs(batch);
  const auto fitting = panel_bytes / (std::min(outputs, outputs_of_piece) * static_cast<std::int64_t>(sizeof(Number)));
  const auto widest = std::max(fitting / width * width, 4 * width);
  for (auto column = columns.begin; column < columns.end; column += widest) {
    const Rows some{column, std::min(column + widest, columns.end)};
    for (std::int64_t first = 0; first < outputs; first += outputs_of_piece) {
      const auto inner = std::min(outputs_of_piece, outputs - first);
      panel_.resize(inner, some.count());
      for (std::int64_t k = 0; k < inner; ++k) {
        each_in_row(batch, first + k, some, [&](std::int64_t count, Number scale, const Number* from, std::int64_t at) {
          engines::combine<Number>(count, scale, from, 0, nullptr, panel_, k, at);
        });
      }
      with(first, some);
    }
  }
}

template <class Number>
template <class Out>
void BatchFactors<Number>::multiply(const Rows& rows, const Rows& columns, Out* out,
                                    const std::function<void(double)>& advance) {
  const auto count = rows.count();
  const auto batches = problem_.batches();
  const bool one_piece = batches == 1 && layout_.outputs(0) <= outputs_of_piece;
  if (!one_piece) sums_.assign(static_cast<std::size_t>(count * columns.count()), 0.0);
  for (std::int64_t b = 0; b < batches; ++b) {
    if (!layout_.plan().kept) derive_batch(b);
    weigh(b, rows);
    each_panel(b, columns, [&](std::int64_t first, const Rows& some) {
      const engines::Product<Number> product{left_.data() + first * count, count, panel_.factor()};
      const auto place = some.begin - columns.begin;
      if (one_piece) return engines::multiply(product, count, out + place, columns.count());
      partial_.resize(static_cast<std::size_t>(count * some.count()));
      engines::multiply(product, count, partial_.data(), some.count());
      for (std::int64_t i = 0; i < count; ++i) {
        const Number* const from = partial_.data() + i * some.count();
        double* const to = sums_.data() + i * columns.count() + place;
        for (std::int64_t j = 0; j < some.count(); ++j) to[j] += static_cast<double>(from[j]);
      }
    });
    advance(static_cast<double>(count) / static_cast<double>(batches));
  }
  if (!one_piece) std::transform(sums_.begin(), sums_.end(), out, [](double x) { return static_cast<Out>(x); });
}

}  // namespace

class JacobianFactors::Numbers {
 public:
  template <class... Arguments>
  explicit Numbers(Precision accumulate, const Arguments&... arguments)
      : factors_(accumulate == Precision::float32 ? Either(std::in_place_type<BatchFactors<float>>, arguments...)
                                                  : Either(std::in_place_type<BatchFactors<double>>, arguments...)) {}

  template <class Out>
  void multiply(const Rows& rows, const Rows& columns, Out* out, const std::function<void(double)>& advance) {
    std::visit([&](auto& factors) { factors.multiply(rows, columns, out, advance); }, factors_);
  }

 private:
  using Either = std::variant<BatchFactors<float>, BatchFactors<double>>;
  Either factors_;
};

JacobianFactors::JacobianFactors(const network::Problem& problem, const JacobianPlan& plan, Precision accumulate,
                                 const ranks::Communicator& communicator, const std::function<void()>& between)
    : plan_(plan),
      columns_(problem.index().size()),
      numbers_(std::make_unique<Numbers>(accumulate, problem, plan, communicator, between)) {}

JacobianFactors::~JacobianFactors() = default;

std::int64_t JacobianFactors::rows_at_once() const {
  constexpr std::int64_t rows_that_pay_for_panels = 128;
  return plan_.kept ? rows_that_pay_for_panels : rows_worth_deriving(columns_);
}

std::uint64_t JacobianFactors::bytes_per_row(std::int64_t columns) const {
  const auto most = *std::max_element(plan_.outputs.begin(), plan_.outputs.end());
  return sizeof(double) * static_cast<std::uint64_t>(2 * most + columns);
}

void JacobianFactors::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                              const std::function<void(double)>& advance) {
  engines::with_numbers(storage, out, [&](auto* numbers) { numbers_->multiply(rows, columns, numbers, advance); });
}

}  // namespace hessian_mpi::layers
