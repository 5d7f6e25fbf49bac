#include "exported_program/region.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "casts.hpp"
#include "exported_program/graph.hpp"
#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::network {
namespace {

using c10::IValue;
using RegionArguments = std::vector<RegionArgument>;

const IValue& value(const RegionArguments& arguments, std::size_t index) {
  return std::get<IValue>(arguments[index]);
}

const Values& list(const RegionArguments& arguments, std::size_t index) {
  return std::get<Values>(arguments[index]);
}

const Graph& graph(const RegionArguments& arguments, std::size_t index) {
  return *std::get<std::shared_ptr<const Graph>>(arguments[index]);
}

Values values_from(const RegionArguments& arguments, std::size_t first) {
  Values values;
  for (std::size_t i = first; i < arguments.size(); ++i) values.push_back(value(arguments, i));
  return values;
}

void append(Values& values, const Values& more) {
  values.insert(values.end(), more.begin(), more.end());
}

bool is_true(const IValue& condition) {
  if (condition.isBool()) return condition.toBool();
  if (condition.isInt()) return condition.toInt() != 0;
  if (condition.isTensor() && condition.toTensor().numel() == 1) return condition.toTensor().item().to<bool>();
  throw std::invalid_argument("a condition must be one bool");
}

bool flag(const IValue& value, const char* name) {
  if (!value.isBool()) throw std::invalid_argument(std::string(name) + " must be a bool");
  return value.toBool();
}

/// autocast as Python's context manager sets it, until the end of its life. Casts of weights are not kept: what is
/// used twice would add up its derivative in the narrow dtype.
class Autocast {
 public:
  Autocast(c10::DeviceType device, bool enabled, std::optional<at::ScalarType> dtype)
      : device_(device),
        enabled_(at::autocast::is_autocast_enabled(device)),
        dtype_(at::autocast::get_autocast_dtype(device)),
        cache_(at::autocast::is_autocast_cache_enabled()) {
    at::autocast::set_autocast_enabled(device, enabled);
    if (dtype) at::autocast::set_autocast_dtype(device, *dtype);
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~Autocast() {
    at::autocast::set_autocast_enabled(device_, enabled_);
    at::autocast::set_autocast_dtype(device_, dtype_);
    at::autocast::set_autocast_cache_enabled(cache_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool enabled_;
  at::ScalarType dtype_;
  bool cache_;
};

// (enabled, body, inputs...)
Values grad_mode(const RegionArguments& arguments, const RunGraph& run_graph) {
  const at::AutoGradMode mode(flag(value(arguments, 0), "the mode"));
  return run_graph(graph(arguments, 1), values_from(arguments, 2));
}

// (device type, dtype, enabled, cache enabled, body, inputs...); autocast of another device than the inputs' does
// nothing, and none does in float64.
Values autocast(const RegionArguments& arguments, const RunGraph& run_graph) {
  constexpr std::size_t body = 4;
  const IValue &device = value(arguments, 0), &dtype = value(arguments, 1);
  if (!device.isString() || !(dtype.isNone() || dtype.isInt()))
    throw std::invalid_argument("is not what autocast is exported as");
  const bool in_file = flag(value(arguments, 2), "enabled");
  const auto* const casts = CastsInEffect::current();
  const bool enabled = in_file && (casts == nullptr || !casts->are_all_wide());
  const bool on_cpu = device.toStringRef() == "cpu";
  if (!on_cpu && device.toStringRef() != "cuda") {
    return run_graph(graph(arguments, body), values_from(arguments, body + 1));
  }
  if (in_file && !enabled) WidenedCasts::note("autocast");
  const auto chosen = dtype.isNone() ? std::nullopt : std::optional(static_cast<at::ScalarType>(dtype.toInt()));
  const Autocast guard(on_cpu ? at::kCPU : at::kCUDA, enabled, chosen);
  return run_graph(graph(arguments, body), values_from(arguments, body + 1));
}

// (body, inputs...): how the body's intermediate values are kept is of no concern here.
Values checkpoint(const RegionArguments& arguments, const RunGraph& run_graph) {
  return run_graph(graph(arguments, 0), values_from(arguments, 1));
}

// (body, a name, inputs...)
Values subgraph(const RegionArguments& arguments, const RunGraph& run_graph) {
  return run_graph(graph(arguments, 0), values_from(arguments, 2));
}

// (condition, graph if true, graph if false, inputs)
Values condition(const RegionArguments& arguments, const RunGraph& run_graph) {
  return run_graph(graph(arguments, is_true(value(arguments, 0)) ? 1 : 2), list(arguments, 3));
}

// (condition, body, carried, also read): both graphs take (carried..., also read...), the body gives what is carried.
Values while_loop(const RegionArguments& arguments, const RunGraph& run_graph) {
  Values carried = list(arguments, 2);
  const auto run = [&](std::size_t which) {
    Values inputs = carried;
    append(inputs, list(arguments, 3));
    return run_graph(graph(arguments, which), std::move(inputs));
  };
  while (true) {
    const Values again = run(0);
    if (again.size() != 1) throw std::invalid_argument("a condition must be one bool");
    if (!is_true(again.front())) return carried;
    Values next = run(1);
    if (next.size() != carried.size()) throw std::invalid_argument("the body gives back another number of values");
    carried = std::move(next);
  }
}

/// The tensors of a list, taken apart along their first dimension.
class Slices {
 public:
  explicit Slices(const Values& values) {
    for (const IValue& value : values) {
      if (!value.isTensor() || value.toTensor().dim() == 0)
        throw std::invalid_argument("goes over tensors that have no first dimension");
      tensors_.push_back(value.toTensor());
      if (tensors_.back().size(0) != tensors_.front().size(0))
        throw std::invalid_argument("goes over tensors of unequal lengths");
    }
    if (tensors_.empty() || count() == 0) throw std::invalid_argument("goes over nothing");
  }
  std::int64_t count() const { return tensors_.front().size(0); }
  Values at(std::int64_t index) const {
    Values slices;
    for (const at::Tensor& tensor : tensors_) slices.emplace_back(tensor.select(0, index));
    return slices;
  }

 private:
  std::vector<at::Tensor> tensors_;
};

// The results of all steps, from the one at `first` on, each stacked along a new first dimension.
Values stacked(const std::vector<Values>& steps, std::size_t first) {
  Values results;
  for (std::size_t k = first; k < steps.front().size(); ++k) {
    std::vector<at::Tensor> tensors;
    for (const Values& step : steps) {
      if (!step[k].isTensor()) throw std::invalid_argument("gives results that are no tensors");
      tensors.push_back(step[k].toTensor());
    }
    results.emplace_back(at::stack(tensors));
  }
  return results;
}

// (body, what it goes over, also read)
Values map(const RegionArguments& arguments, const RunGraph& run_graph) {
  const Slices slices(list(arguments, 1));
  std::vector<Values> steps;
  for (std::int64_t i = 0; i < slices.count(); ++i) {
    Values inputs = slices.at(i);
    append(inputs, list(arguments, 2));
    steps.push_back(run_graph(graph(arguments, 0), std::move(inputs)));
  }
  return stacked(steps, 0);
}

// (body, carried at first, what it goes over, also read): the body gives (carried..., results...).
Values scan(const RegionArguments& arguments, const RunGraph& run_graph) {
  const Slices slices(list(arguments, 2));
  Values carried = list(arguments, 1);
  const auto count = static_cast<std::ptrdiff_t>(carried.size());
  std::vector<Values> steps;
  for (std::int64_t i = 0; i < slices.count(); ++i) {
    Values inputs = carried;
    append(inputs, slices.at(i));
    append(inputs, list(arguments, 3));
    steps.push_back(run_graph(graph(arguments, 0), std::move(inputs)));
    if (steps.back().size() < carried.size()) throw std::invalid_argument("the body gives back too few values");
    carried.assign(steps.back().begin(), steps.back().begin() + count);
  }
  append(carried, stacked(steps, carried.size()));
  return carried;
}

constexpr Region regions[] = {
    {"wrap_with_set_grad_enabled", "vg*", grad_mode},
    {"wrap_with_autocast", "vvvvg*", autocast},
    {"tag_activation_checkpoint", "g*", checkpoint},
    {"wrap_activation_checkpoint", "g*", checkpoint},
    {"invoke_subgraph", "gv*", subgraph},
    {"cond", "vggl", condition},
    {"while_loop", "ggll", while_loop},
    {"map_impl", "gll", map},
    {"scan", "glll", scan},
};

}  // namespace

const Region* find_region(std::string_view target) {
  static constexpr std::string_view start = "torch.ops.higher_order.";
  if (!target.starts_with(start)) return nullptr;
  for (const Region& region : regions) {
    if (region.name == target.substr(start.size())) return &region;
  }
  return nullptr;
}

}  // namespace hessian_mpi::network
