#include "layer_plan/operator_counts.hpp"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string_view>

namespace hessian_mpi::layers {
namespace {

using at::Tensor;
using IValues = c10::ArrayRef<c10::IValue>;

const Tensor* tensor_at(IValues arguments, std::size_t k) {
  if (k >= arguments.size() || !arguments[k].isTensor() || !arguments[k].toTensor().defined()) return nullptr;
  return &arguments[k].toTensor();
}

double numbers_in(IValues values) {
  double sum = 0;
  for (const auto& value : values) {
    if (value.isTensor() && value.toTensor().defined()) sum += static_cast<double>(value.toTensor().numel());
  }
  return sum;
}

const void* place_of(const Tensor& tensor) {
  return tensor.has_storage() ? tensor.storage().data() : nullptr;
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// What is known of a call before it is made.
struct Known final : at::ObserverContext {
  OperatorCounts before;
  double numbers = 0;             // that it reads
  double products = 0;            // of an operator that is one: multiplications in all,
  double products_of_number = 0;  // and for each number of the output
  const void* first = nullptr;    // where the first tensor lies
};

bool is_true(IValues inputs, std::size_t k) {
  return k < inputs.size() && inputs[k].isBool() && inputs[k].toBool();
}

// Each place is multiplied with what the kernel has for it, also in the derivatives: of the output, or of the input of
// a transposed one.
void note_convolution(IValues inputs, Known& known) {
  const auto *x = tensor_at(inputs, 0), *weight = tensor_at(inputs, 1);
  if (x == nullptr || weight == nullptr || weight->numel() == 0) return;
  const auto of_place = static_cast<double>(weight->numel() / weight->size(0));
  if (is_true(inputs, 6)) {
    known.products = of_place * static_cast<double>(x->numel());
  } else {
    known.products_of_number = of_place;
  }
}

void note_convolution_backward(IValues inputs, Known& known) {
  const auto *g = tensor_at(inputs, 0), *x = tensor_at(inputs, 1), *weight = tensor_at(inputs, 2);
  if (g == nullptr || x == nullptr || weight == nullptr || weight->numel() == 0) return;
  if (inputs.size() < 11 || !inputs[10].isBoolList()) return;
  const auto wanted = inputs[10].toBoolList();  // by input, weight and bias
  const auto places = static_cast<double>((is_true(inputs, 7) ? *x : *g).numel());
  known.products =
      ((wanted[0] ? 1 : 0) + (wanted[1] ? 1 : 0)) * places * static_cast<double>(weight->numel() / weight->size(0));
}

// For each number of p so many products with a query or a key, and with a value.
void note_attention(IValues inputs, std::int64_t by_width, std::int64_t by_values, Known& known) {
  const auto *p = tensor_at(inputs, 0), *queries = tensor_at(inputs, 1), *values = tensor_at(inputs, 2);
  if (p == nullptr || queries == nullptr || values == nullptr) return;
  known.products = static_cast<double>(p->numel() * (by_width * queries->size(2) + by_values * values->size(2)));
}

void note_products(std::string_view name, IValues inputs, Known& known) {
  if (is_one_of(name, {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addmm_", "aten::baddbmm_"})) {
    const auto* left = tensor_at(inputs, name.find("add") == std::string_view::npos ? 0 : 1);
    if (left != nullptr) known.products_of_number = static_cast<double>(left->size(-1));
  } else if (is_one_of(name, {"aten::convolution", "aten::_convolution"})) {
    note_convolution(inputs, known);
  } else if (name == "aten::convolution_backward") {
    note_convolution_backward(inputs, known);
  } else if (name == "hessian_mpi::attention") {
    note_attention(inputs, 2, 2, known);
  } else if (name == "hessian_mpi::attention_gradient") {
    note_attention(inputs, 6, 4, known);
  }
}

class Counter {
 public:
  Counter() {
    current() = this;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(on_start, on_end)
                                             .needsInputs(true)
                                             .needsOutputs(true)
                                             .scopes({at::RecordScope::FUNCTION}));
  }
  ~Counter() {
    at::removeCallback(handle_);
    current() = nullptr;
  }
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;

  const OperatorCounts& counts() const { return counts_; }

 private:
  // Callbacks are plain functions: this is how they find the counter, on all threads.
  static Counter*& current() {
    static Counter* counter = nullptr;
    return counter;
  }

  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
    const auto given = function.inputs();  // the interpreter hands over its whole stack
    const auto inputs = given.slice(given.size() - std::min(given.size(), function.num_inputs()));
    auto known = std::make_unique<Known>();
    known->before = current()->counts_;
    known->numbers = numbers_in(inputs);
    if (const auto* first = tensor_at(inputs, 0)) known->first = place_of(*first);
    note_products(function.name(), inputs, *known);
    return known;
  }

  static void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
    if (context != nullptr) current()->add(function, static_cast<const Known&>(*context));
  }

  // What an operator calls in its turn is counted there, except in products.
  void add(const at::RecordFunction& function, const Known& known) {
    const std::string_view name = function.name();
    const auto& all = function.outputs();
    const IValues outputs = IValues(all).slice(all.size() - std::min(all.size(), function.num_outputs()));
    const double numbers = numbers_in(outputs);
    const auto* to = tensor_at(outputs, 0);
    const bool is_view = known.first != nullptr && to != nullptr && place_of(*to) == known.first;
    const bool looks_only = (is_view && !name.ends_with('_')) || name.starts_with("aten::empty");
    if (known.products > 0 || known.products_of_number > 0) {
      counts_ = known.before;
      counts_.products += known.products + known.products_of_number * numbers;
    } else if (counts_.numbers == known.before.numbers && counts_.products == known.before.products && !looks_only) {
      counts_.numbers += known.numbers + numbers;
    }
    ++counts_.calls;
  }

  OperatorCounts counts_;
  at::CallbackHandle handle_ = 0;
};

}  // namespace

OperatorCounts counts_of_operators(const std::function<void()>& work) {
  const Counter counter;
  work();
  return counter.counts();
}

}  // namespace hessian_mpi::layers
