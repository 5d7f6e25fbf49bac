#include <ATen/EmptyTensor.h>

#include <map>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "operator_rules.hpp"
#include "torchscript_model/check.hpp"
#include "torchscript_model/nodes.hpp"

namespace hessian_mpi::network {
namespace {

using c10::IValue;

constexpr int deepest_nesting = 200;

// --- Tensors ------------------------------------------------------------------------------------------------------

// Values of sparse tensors lie where their indices say, those of others where their strides say: LibTorch 2.9 believes
// a file that these are inside of what it holds.
void check_tensor(const torch::Tensor& tensor) {
  if (!tensor.defined()) return;
  if (tensor.layout() == torch::kStrided) {
    const auto taken = at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize(),
                                                        static_cast<std::size_t>(tensor.storage_offset()));
    if (taken <= tensor.storage().nbytes()) return;
    throw InputError(
        text("is damaged: it holds a tensor of ", taken, " bytes, of which ", tensor.storage().nbytes(), " are there"));
  }
  if (tensor.layout() != torch::kSparse) throw InputError("holds a tensor in a layout that is not supported");
  at::_validate_sparse_coo_tensor_args(tensor._indices(), tensor._values(), tensor.sizes());
}

// --- Functions ----------------------------------------------------------------------------------------------------

void check_node(torch::jit::Node& node) {
  const std::string name = node.kind().toQualString();
  if (const auto reason = reason_against_operator(name))
    throw InputError(text("calls ", printable(name), ": that ", *reason));
  if (node.kind() == c10::prim::Constant) {
    const auto value = torch::jit::toIValue(node.output());
    if (value && value->isTensor()) check_tensor(value->toTensor());
  }
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return;
  for (std::size_t k = 0; k < std::min(schema->arguments().size(), node.inputs().size()); ++k) {
    const auto constant = torch::jit::toIValue(node.inputs()[k]);
    if (!constant || is_known_constant(*constant, schema->arguments()[k])) continue;
    throw InputError(text("calls ", name, " with the number ", constant->toInt(), " for its argument '",
                          schema->arguments()[k].name(), "', which has no meaning"));
  }
}

// --- Attributes ---------------------------------------------------------------------------------------------------

/// Compares values with the types that the code gives them.
class TypeCheck {
 public:
  bool fits(const IValue& value, const c10::TypePtr& type, int depth);

 private:
  bool fits_itself(const IValue& value, const c10::TypePtr& type, int depth);
  bool object_fits(const IValue& value, const c10::TypePtr& type, int depth);
  template <class Parts>
  bool all_fit(const Parts& parts, const c10::TypePtr& type, int depth) {
    for (const IValue& part : parts) {
      if (!fits(part, type, depth)) return false;
    }
    return true;
  }

  std::map<std::pair<const void*, const void*>, bool> seen_;  // what is shared is looked at once for each type
};

bool TypeCheck::object_fits(const IValue& value, const c10::TypePtr& type, int depth) {
  if (!value.isObject()) return false;
  const auto& object = value.toObjectRef();
  const auto own = object.type();
  if (!own->isSubtypeOf(*type) || object.slots().size() < own->numAttributes()) return false;
  for (std::size_t slot = 0; slot < own->numAttributes(); ++slot) {
    if (fits(object.getSlot(slot), own->getAttribute(slot), depth + 1)) continue;
    throw InputError(text("is damaged: it holds a ", object.getSlot(slot).tagKind(), " as the attribute '",
                          printable(own->getAttributeName(slot)), "' of ",
                          printable(own->name() ? own->name()->name() : "a class"), ", and its code says ",
                          printable(own->getAttribute(slot)->repr_str())));
  }
  return true;
}

bool TypeCheck::fits(const IValue& value, const c10::TypePtr& type, int depth) {
  const bool shared = value.isObject() || value.isList() || value.isGenericDict() || value.isTuple();
  if (!shared) return fits_itself(value, type, depth);
  const std::pair<const void*, const void*> key{value.internalToPointer(), type.get()};
  if (const auto known = seen_.find(key); known != seen_.end()) return known->second;
  seen_[key] = true;  // for what holds itself
  return seen_[key] = fits_itself(value, type, depth);
}

bool TypeCheck::fits_itself(const IValue& value, const c10::TypePtr& type, int depth) {
  if (depth > deepest_nesting) throw InputError("has attributes that nest too deeply, or hold themselves");
  switch (type->kind()) {
    case c10::TypeKind::OptionalType:
      return value.isNone() || fits(value, type->castRaw<c10::OptionalType>()->getElementType(), depth);
    case c10::TypeKind::UnionType: {
      const auto options = type->containedTypes();
      return std::any_of(options.begin(), options.end(), [&](const auto& one) { return fits(value, one, depth + 1); });
    }
    case c10::TypeKind::ListType:
      return value.isList() && all_fit(value.toListRef(), type->containedType(0), depth + 1);
    case c10::TypeKind::TupleType: {
      if (!value.isTuple() || value.toTupleRef().elements().size() != type->containedTypes().size()) return false;
      for (std::size_t k = 0; k < type->containedTypes().size(); ++k) {
        if (!fits(value.toTupleRef().elements()[k], type->containedType(k), depth + 1)) return false;
      }
      return true;
    }
    case c10::TypeKind::DictType: {
      if (!value.isGenericDict()) return false;
      for (const auto& item : value.toGenericDict()) {
        if (!fits(item.key(), type->containedType(0), depth + 1)) return false;
        if (!fits(item.value(), type->containedType(1), depth + 1)) return false;
      }
      return true;
    }
    case c10::TypeKind::ClassType:
    case c10::TypeKind::InterfaceType:
      return object_fits(value, type, depth);
    case c10::TypeKind::FunctionType:
      return true;
    default:
      return value.type<c10::Type>()->isSubtypeOf(*type);
  }
}

}  // namespace

void check_functions(const torch::jit::Module& module) {
  visit_functions(module, [](const torch::jit::Function& function, torch::jit::Block& code) {
    try {
      visit_nodes(code, check_node);
    } catch (const InputError& error) {
      throw InputError(
          text("has the function ", printable(function.qualname().qualifiedName()), ", which ", error.what()));
    }
  });
}

void check_attributes(const torch::jit::Module& module) {
  const IValue whole(module._ivalue());
  if (!TypeCheck().fits(whole, whole.type<c10::Type>(), 0)) throw InputError("is damaged: it is not of its own class");
  whole.visit([](const IValue& value) {
    if (value.isTensor()) check_tensor(value.toTensor());
    return false;
  });
}

}  // namespace hessian_mpi::network
