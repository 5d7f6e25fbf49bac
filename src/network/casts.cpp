#include "casts.hpp"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/library.h>

#include <algorithm>
#include <sstream>
#include <string_view>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

// LibTorch's place for casts that a caller decides on, of a device that nobody has here.
constexpr auto key = c10::DispatchKey::AutocastPrivateUse1;

// What this thread computes with; the dispatcher's kernels are plain functions.
thread_local const Casts* casts_in_effect = nullptr;
thread_local const std::string* line_of_python = nullptr;
thread_local std::vector<std::string>* widened = nullptr;

bool is_dtype(const c10::Argument& argument) {
  const c10::Type& type = *argument.real_type();
  const bool optional = type.kind() == c10::TypeKind::OptionalType;
  return (optional ? type.castRaw<c10::OptionalType>()->getElementType()->kind() : type.kind()) ==
         c10::TypeKind::ScalarTypeType;
}

// Reads the bytes of a number as those of another.
bool reinterprets(const c10::OperatorName& name) {
  return name.name == "aten::view" || name.name == "aten::view_copy";
}

bool is_own_file(const std::string& file) {
  return !file.empty() && file.find("/torch/") == std::string::npos;
}

// The innermost line of the user's own in what tracing has written: "/home/me/net.py(12): forward", a line for each
// call.
std::string line_of_trace(const torch::jit::SourceRange& range) {
  std::istringstream calls(range.source()->text_str().str());
  for (std::string call; std::getline(calls, call);) {
    const auto end = call.find("): "), begin = call.rfind('(', end);
    if (end == std::string::npos || begin == std::string::npos || !is_own_file(call.substr(0, begin))) continue;
    return text(call.substr(0, begin), ':', call.substr(begin + 1, end - begin - 1));
  }
  return {};
}

// The line that was scripted or traced, where the file says so.
std::string line_of_torchscript() {
  const auto stack = torch::jit::currentCallstack();
  for (auto entry = stack.rbegin(); entry != stack.rend(); ++entry) {
    const auto source = entry->range.findSourceRangeThatGenerated();
    const auto& range = source ? *source : entry->range;
    const auto [file, line, column] = range.file_line_col().value_or(std::tuple("", 0, 0));
    if (is_own_file(file)) return text(file, ':', line);
    if (const auto traced = line_of_trace(range); file.empty() && !traced.empty()) return traced;
  }
  return {};
}

std::string name_in_python(const c10::OperatorName& name) {
  const auto& full = name.name;
  const auto plain = full.substr(full.find("::") + 2);
  return plain == "_to_copy" ? "to" : plain;
}

// Tensors of zeros and the like, which have nothing of the one that they are made by.
bool makes_new_numbers(const std::string& name) {
  return name.ends_with("_like") || name.starts_with("aten::new_") || name.starts_with("aten::empty") ||
         name == "aten::zeros" || name == "aten::ones" || name == "aten::eye";
}

// Whether numbers are narrowed; or begin narrow in a network that has a dtype: those of arange, or positions that were
// integers. Masks are as exact in any.
bool narrows(const torch::jit::Stack& arguments) {
  const auto first = std::find_if(arguments.begin(), arguments.end(), [](const auto& a) { return a.isTensor(); });
  const auto dtype = first == arguments.end() ? torch::kLong : first->toTensor().scalar_type();
  return dtype == torch::kFloat64 ||
         (casts_in_effect->has_parameters() && c10::isIntegralType(dtype, /*includeBool=*/false));
}

void note_cast(const c10::OperatorName& name, torch::Dtype named) {
  const auto line = line_of_python != nullptr ? *line_of_python : line_of_torchscript();
  WidenedCasts::note(text(name_in_python(name), ' ', c10::getDtypeNames(named).first,
                          line.empty() ? "" : " (" + printable(line) + ")"));
}

// What an operator calls in its turn is not the network's: a kernel writes as many bytes as it has asked for.
void as_it_is(const c10::OperatorHandle& called, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard below(key);
  called.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, key), stack);
}

// Called with what the operator is called with, which it gets from here.
void with_casts(const c10::OperatorHandle& called, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto& schema = called.schema();
  const auto begin = stack->size() - schema.arguments().size();
  for (std::size_t k = 0; casts_in_effect != nullptr && k < schema.arguments().size(); ++k) {
    c10::IValue& value = (*stack)[begin + k];
    if (!is_dtype(schema.arguments()[k]) || !value.isInt()) continue;
    const auto named = static_cast<torch::Dtype>(value.toInt());
    if (widened != nullptr && casts_in_effect->widens(named) && !makes_new_numbers(schema.name()) &&
        narrows({stack->begin() + static_cast<std::ptrdiff_t>(begin), stack->end()})) {
      note_cast(called.operator_name(), named);
    }
    value = static_cast<std::int64_t>(casts_in_effect->in_place_of(named));
  }
  as_it_is(called, keys, stack);
}

torch::Library all_operators() {
  torch::Library library(torch::Library::IMPL, "_", key, __FILE__, __LINE__);
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&as_it_is>());
  return library;
}

torch::Library registered_operators() {
  torch::Library library(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto found = dispatcher.findSchema(name);
    if (!found || !name.name.starts_with("aten::") || reinterprets(name)) continue;
    const auto& arguments = found->schema().arguments();
    if (std::none_of(arguments.begin(), arguments.end(), is_dtype)) continue;
    const auto overload = name.overload_name.empty() ? "" : "." + name.overload_name;
    library.impl((name.name + overload).c_str(), torch::CppFunction::makeFromBoxedFunction<&with_casts>());
  }
  return library;
}

}  // namespace

Casts::Casts(std::vector<torch::Dtype> of_file, torch::Dtype now, bool kept)
    : of_file_(std::move(of_file)), now_(now), wide_(now == torch::kFloat64 && !kept), kept_(kept) {
  std::sort(of_file_.begin(), of_file_.end());
  of_file_.erase(std::unique(of_file_.begin(), of_file_.end()), of_file_.end());
}

bool Casts::is_of_file(torch::Dtype named) const {
  return std::find(of_file_.begin(), of_file_.end(), named) != of_file_.end();
}

torch::Dtype Casts::in_place_of(torch::Dtype named) const {
  if (at::isComplexType(named)) return c10::toComplexType(in_place_of(c10::toRealValueType(named)));
  if (!at::isFloatingType(named)) return named;
  return is_of_file(named) || wide_ ? now_ : named;
}

torch::Dtype Casts::of_state(torch::Dtype own) const {
  if (at::isComplexType(own)) return c10::toComplexType(of_state(c10::toRealValueType(own)));
  if (!at::isFloatingType(own)) return own;
  return kept_ && now_ == torch::kFloat64 && !is_of_file(own) ? own : now_;
}

bool Casts::widens(torch::Dtype named) const {
  const auto real = at::isComplexType(named) ? c10::toRealValueType(named) : named;
  return in_place_of(named) != named && !is_of_file(real);
}

std::optional<torch::Dtype> Casts::default_dtype() const {
  return is_of_file(torch::kFloat32) ? std::optional(now_) : std::nullopt;
}

std::vector<torch::Dtype> dtypes_of(const std::vector<NamedTensor>& tensors) {
  std::vector<torch::Dtype> dtypes;
  for (const auto& tensor : tensors) {
    if (tensor.value.is_floating_point()) dtypes.push_back(tensor.value.scalar_type());
  }
  return dtypes;
}

CastsInEffect::CastsInEffect(const Casts& casts)
    : before_(casts_in_effect), default_before_(c10::get_default_dtype_as_scalartype()) {
  static const torch::Library all = all_operators(), with_dtypes = registered_operators();
  casts_in_effect = &casts;
  if (casts.leave_all_as_it_is()) return;
  if (const auto dtype = casts.default_dtype()) c10::set_default_dtype(c10::scalarTypeToTypeMeta(*dtype));
  c10::impl::tls_set_dispatch_key_excluded(key, false);
  c10::impl::tls_set_dispatch_key_included(key, true);
}

CastsInEffect::~CastsInEffect() {
  casts_in_effect = before_;
  c10::set_default_dtype(c10::scalarTypeToTypeMeta(default_before_));
  const bool outer = before_ != nullptr && !before_->leave_all_as_it_is();
  c10::impl::tls_set_dispatch_key_included(key, outer);
  c10::impl::tls_set_dispatch_key_excluded(key, !outer);
}

const Casts* CastsInEffect::current() {
  return casts_in_effect;
}

LineOfPython::LineOfPython(const std::string& line) : before_(line_of_python) {
  line_of_python = &line;
}

LineOfPython::~LineOfPython() {
  line_of_python = before_;
}

WidenedCasts::WidenedCasts() {
  widened = &found_;
}

WidenedCasts::~WidenedCasts() {
  widened = nullptr;
}

void WidenedCasts::note(const std::string& what) {
  if (widened != nullptr && std::find(widened->begin(), widened->end(), what) == widened->end()) {
    widened->push_back(what);
  }
}

void WidenedCasts::note(const std::vector<NamedDtype>& state, const Casts& casts) {
  if (widened == nullptr || !casts.has_parameters()) return;
  for (const auto& [name, dtype] : state) {
    if (casts.widens(dtype)) note(text("'", printable(name), "' of ", c10::getDtypeNames(dtype).first));
  }
}

std::optional<std::string> WidenedCasts::cure() const {
  constexpr std::size_t most = 8;
  if (found_.empty()) return std::nullopt;
  std::string list;
  for (std::size_t k = 0; k < std::min(most, found_.size()); ++k) list += (k == 0 ? "" : ", ") + found_[k];
  return text("computed in float64 where the network says another dtype (--keep-casts computes as it says): ", list,
              found_.size() > most ? text(" and ", found_.size() - most, " more") : "");
}

}  // namespace hessian_mpi::network
