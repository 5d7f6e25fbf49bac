#include "operator_rules.hpp"

#include <ATen/core/jit_type.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>

#include <array>
#include <string_view>
#include <utility>

namespace hessian_mpi::network {
namespace {

constexpr const char* touches_files = "reads or writes files of this machine";
constexpr const char* leaves_memory = "can show memory that does not belong to its tensors";

constexpr std::pair<std::string_view, const char*> denied[] = {
    {"aten::get_gradients", "reads the state of distributed autograd"},
    {"aten::_reshape_alias", leaves_memory},
    {"aten::_reshape_alias_copy", leaves_memory},
    {"aten::_sparse_coo_tensor_with_dims_and_tensors", leaves_memory},
    {"aten::set", leaves_memory},
    {"aten::set_", leaves_memory},
    {"aten::resize", leaves_memory},
    {"aten::resize_", leaves_memory},
    {"aten::resize_as", leaves_memory},
    {"aten::resize_as_", leaves_memory},
    {"aten::_resize_output", leaves_memory},
    {"aten::_resize_output_", leaves_memory},
    {"aten::_copy_from_and_resize", leaves_memory},
    {"prim::PythonOp", "runs Python"},
    {"prim::IgnoredPythonOp", "runs Python"},
    {"prim::rpc_async", "calls other machines"},
    {"prim::rpc_sync", "calls other machines"},
    {"prim::rpc_remote", "calls other machines"},
};

std::string_view namespace_of(std::string_view name) {
  return name.substr(0, name.find("::"));
}

bool is_below(const c10::IValue& constant, std::int64_t limit) {
  return !constant.isInt() || (constant.toInt() >= 0 && constant.toInt() < limit);
}

const c10::Type& without_optional(const c10::Type& type) {
  return type.kind() == c10::TypeKind::OptionalType ? *type.castRaw<c10::OptionalType>()->getElementType() : type;
}

}  // namespace

std::optional<std::string> reason_against_operator(const std::string& name) {
  for (const auto* operation : operators_on_files) {
    if (name == operation) return touches_files;
  }
  for (const auto& [operation, reason] : denied) {
    if (operation == name) return reason;
  }
  // TransformerEncoder has these in its code; both check what they are given.
  for (const std::string_view checked :
       {"aten::_nested_tensor_from_mask", "aten::_nested_tensor_from_mask_left_aligned"}) {
    if (name == checked) return std::nullopt;
  }
  // Built from indices that nobody checks: a wrong one reads beyond the tensor.
  if (name.ends_with("_tensor_unsafe") || name.starts_with("aten::_nested_")) return leaves_memory;
  for (const std::string_view known : {"aten", "prim", "prims"}) {
    if (namespace_of(name) == known) return std::nullopt;
  }
  return "is not one of PyTorch's own operators on tensors (torch.ops.aten)";
}

bool is_known_constant(const c10::IValue& constant, const c10::Argument& argument) {
  switch (without_optional(*argument.real_type()).kind()) {
    case c10::TypeKind::ScalarTypeType:
      return is_below(constant, static_cast<std::int64_t>(c10::ScalarType::Undefined));
    case c10::TypeKind::LayoutType:
      return is_below(constant, static_cast<std::int64_t>(c10::Layout::NumOptions));
    case c10::TypeKind::MemoryFormatType:
      return is_below(constant, static_cast<std::int64_t>(c10::MemoryFormat::NumOptions));
    default:
      return true;
  }
}

}  // namespace hessian_mpi::network
