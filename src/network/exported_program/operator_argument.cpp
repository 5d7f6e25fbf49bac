#include "exported_program/operator_argument.hpp"

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>

#include <optional>
#include <stdexcept>
#include <string>

namespace hessian_mpi::network {
namespace {

using c10::IValue;
using c10::TypeKind;

[[noreturn]] void refuse(const std::string& given, const c10::Type& type) {
  throw std::invalid_argument("wants " + type.str() + ", was given " + given);
}

bool is_number(const IValue& value) {
  return value.isInt() || value.isDouble() || value.isBool() || value.isComplexDouble();
}

IValue to_tensor(const IValue& value, const c10::Type& type) {
  if (value.isTensor()) return value;
  if (!is_number(value)) refuse(value.tagKind(), type);
  at::Tensor tensor = c10::scalar_to_tensor(value.toScalar());
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

IValue to_single(const IValue& value, const c10::Type& type) {
  switch (type.kind()) {
    case TypeKind::OptionalType:
      return value.isNone() ? value : to_single(value, *type.castRaw<c10::OptionalType>()->getElementType());
    case TypeKind::TensorType:
      return to_tensor(value, type);
    case TypeKind::NumberType:
      if (is_number(value)) return value;
      break;
    case TypeKind::FloatType:
      if (value.isDouble()) return value;
      if (value.isInt()) return static_cast<double>(value.toInt());
      break;
    case TypeKind::IntType:
    case TypeKind::SymIntType:
      if (value.isInt()) return value;
      if (value.isBool()) return static_cast<std::int64_t>(value.toBool());
      break;
    case TypeKind::BoolType:
    case TypeKind::SymBoolType:
      if (value.isBool()) return value;
      if (value.isInt()) return value.toInt() != 0;
      break;
    case TypeKind::StringType:
      if (value.isString()) return value;
      break;
    case TypeKind::DeviceObjType:
      if (value.isDevice()) return value;
      break;
    default:
      break;
  }
  refuse(value.tagKind(), type);
}

template <class T, class Convert>
IValue to_list(const std::vector<IValue>& values, const c10::Type& element, Convert convert) {
  c10::List<T> list;
  list.reserve(values.size());
  for (const IValue& value : values) list.push_back(convert(to_single(value, element)));
  return list;
}

IValue to_list(const std::vector<IValue>& values, const c10::Type& element) {
  switch (element.kind()) {
    case TypeKind::TensorType:
      return to_list<at::Tensor>(values, element, [](const IValue& v) { return v.toTensor(); });
    case TypeKind::OptionalType:
      if (element.castRaw<c10::OptionalType>()->getElementType()->kind() != TypeKind::TensorType) break;
      return to_list<std::optional<at::Tensor>>(values, element,
                                                [](const IValue& v) { return v.toOptional<at::Tensor>(); });
    case TypeKind::IntType:
    case TypeKind::SymIntType:
      return to_list<std::int64_t>(values, element, [](const IValue& v) { return v.toInt(); });
    case TypeKind::FloatType:
      return to_list<double>(values, element, [](const IValue& v) { return v.toDouble(); });
    case TypeKind::BoolType:
      return to_list<bool>(values, element, [](const IValue& v) { return v.toBool(); });
    case TypeKind::StringType:
      return to_list<std::string>(values, element, [](const IValue& v) { return v.toStringRef(); });
    case TypeKind::NumberType:
      return to_list<at::Scalar>(values, element, [](const IValue& v) { return v.toScalar(); });
    default:
      break;
  }
  refuse("a list", element);
}

const c10::Type& without_optional(const c10::Type& type) {
  return type.kind() == TypeKind::OptionalType ? *type.castRaw<c10::OptionalType>()->getElementType() : type;
}

}  // namespace

IValue to_operator_argument(const IValue& value, const c10::Argument& argument) {
  const c10::Type& type = without_optional(*argument.type());
  // Schemas such as `int[2] stride` take one number for all.
  if (type.kind() == TypeKind::ListType && is_number(value) && argument.N()) {
    return to_operator_argument(std::vector<IValue>(static_cast<std::size_t>(*argument.N()), value), argument);
  }
  return to_single(value, *argument.type());
}

IValue to_operator_argument(const std::vector<IValue>& values, const c10::Argument& argument) {
  const c10::Type& type = without_optional(*argument.type());
  if (type.kind() != TypeKind::ListType) refuse("a list", type);
  return to_list(values, *type.castRaw<c10::ListType>()->getElementType());
}

}  // namespace hessian_mpi::network
