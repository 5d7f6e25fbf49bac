#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

#include "archive_check.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "values.hpp"

namespace hessian_mpi::network {
namespace {

using Kind = PickledObject::Kind;
using Reader = caffe2::serialize::PyTorchStreamReader;

// Under which training programs keep the state_dict of the network.
constexpr std::array usual_keys = {"state_dict", "model_state_dict", "model"};

torch::Dtype dtype_of_storage(std::string_view storage) {
  static constexpr std::pair<std::string_view, torch::Dtype> all[] = {
      {"torch DoubleStorage", torch::kFloat64},
      {"torch FloatStorage", torch::kFloat32},
      {"torch HalfStorage", torch::kFloat16},
      {"torch BFloat16Storage", torch::kBFloat16},
      {"torch LongStorage", torch::kInt64},
      {"torch IntStorage", torch::kInt32},
      {"torch ShortStorage", torch::kInt16},
      {"torch CharStorage", torch::kInt8},
      {"torch ByteStorage", torch::kUInt8},
      {"torch BoolStorage", torch::kBool},
      {"torch ComplexFloatStorage", torch::kComplexFloat},
      {"torch ComplexDoubleStorage", torch::kComplexDouble},
      {"torch ComplexHalfStorage", torch::kComplexHalf}};
  for (const auto& [name, dtype] : all) {
    if (name == storage) return dtype;
  }
  throw InputError("it is of a kind that is not supported");
}

/// The tensors in a pickle and its archive.
class PickledTensors {
 public:
  explicit PickledTensors(const std::filesystem::path& file) : reader_(file.string()) {
    if (reader_.hasRecord("byteorder")) {
      const auto [bytes, size] = reader_.getRecord("byteorder");
      if (std::string_view(static_cast<const char*>(bytes.get()), size) != "little") {
        throw InputError("was written on a machine with another byte order");
      }
    }
    if (!reader_.hasRecord("data.pkl") || reader_.hasRecord("constants.pkl")) {
      throw InputError("is a network or some other archive, no state_dict: write torch.save(net.state_dict(), FILE)");
    }
    objects_ = pickled_objects(reader_, "data.pkl", "data");
  }

  const PickledObject& whole() const { return objects_.all[objects_.whole]; }
  const PickledObject& part(const PickledObject& of, std::size_t k) const { return objects_.all[of.parts[k]]; }
  bool is_tensor(const PickledObject& object) const;
  /// What stands under a key of a dict; none where there is no such key.
  const PickledObject* find(const PickledObject& dict, std::string_view key) const;
  torch::Tensor tensor(const PickledObject& object);

 private:
  std::vector<std::int64_t> integers(const PickledObject& tuple) const;
  torch::Tensor storage(const PickledObject& storage);

  Reader reader_;
  PickledObjects objects_;
  std::map<std::string, torch::Tensor> storages_;  ///< bytes of records
};

// (function, (arguments...))
bool PickledTensors::is_tensor(const PickledObject& object) const {
  if (object.kind != Kind::object || object.parts.size() < 2) return false;
  const auto& function = part(object, 0).text;
  const auto& arguments = part(object, 1);
  if (arguments.kind != Kind::tuple || arguments.parts.empty()) return false;
  return function == "torch._utils _rebuild_tensor_v2" || function == "torch._utils _rebuild_parameter";
}

const PickledObject* PickledTensors::find(const PickledObject& dict, std::string_view key) const {
  for (std::size_t k = 0; dict.kind == Kind::dict && k + 1 < dict.parts.size(); k += 2) {
    if (part(dict, k).kind == Kind::text && part(dict, k).text == key) return &part(dict, k + 1);
  }
  return nullptr;
}

std::vector<std::int64_t> PickledTensors::integers(const PickledObject& tuple) const {
  std::vector<std::int64_t> numbers;
  if (tuple.kind != Kind::tuple) throw InputError("it has no sizes");
  for (std::size_t k = 0; k < tuple.parts.size(); ++k) {
    if (part(tuple, k).kind != Kind::integer) throw InputError("it has a size that is no number");
    numbers.push_back(part(tuple, k).number);
  }
  return numbers;
}

// ('storage', torch.FloatStorage, KEY, DEVICE, NUMBER OF ELEMENTS)
torch::Tensor PickledTensors::storage(const PickledObject& storage) {
  if (storage.kind != Kind::storage) throw InputError("it has no values that could be read");
  const auto dtype = dtype_of_storage(part(storage, 1).text);
  const std::int64_t elements = part(storage, 4).number;
  if (elements == 0) return at::empty({0}, dtype);
  const auto record = "data/" + part(storage, 2).text;
  torch::Tensor& bytes = storages_[record];
  if (!bytes.defined()) {
    bytes = at::empty({static_cast<std::int64_t>(reader_.getRecordSize(record))}, torch::kUInt8);
    reader_.getRecord(record, bytes.data_ptr(), static_cast<std::size_t>(bytes.numel()));
  }
  const auto own = bytes.narrow(0, 0, elements * static_cast<std::int64_t>(c10::elementSize(dtype)));
  return dtype == torch::kBool ? own.ne(0) : own.view(dtype);  // any other byte than 1 is no bool
}

// _rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks), _rebuild_parameter(tensor, ...)
torch::Tensor PickledTensors::tensor(const PickledObject& object) {
  const auto& arguments = part(object, 1);
  if (part(object, 0).text == "torch._utils _rebuild_parameter") {
    const auto& inner = part(arguments, 0);
    if (!is_tensor(inner) || part(inner, 0).text == part(object, 0).text) throw InputError("it is no plain tensor");
    return tensor(inner);
  }
  if (arguments.parts.size() < 4) throw InputError("it has no sizes");
  const torch::Tensor values = storage(part(arguments, 0));
  const auto sizes = integers(part(arguments, 2)), strides = integers(part(arguments, 3));
  const auto& offset = part(arguments, 1);
  const auto negative = [](std::int64_t x) { return x < 0; };
  if (sizes.size() != strides.size() || offset.kind != Kind::integer || negative(offset.number) ||
      std::any_of(sizes.begin(), sizes.end(), negative) || std::any_of(strides.begin(), strides.end(), negative)) {
    throw InputError("its sizes and strides do not fit each other");
  }
  std::int64_t last = offset.number, count = 1;
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    std::int64_t step = 0;
    const bool overflow = __builtin_mul_overflow(count, sizes[d], &count) ||
                          __builtin_mul_overflow(sizes[d] - 1, strides[d], &step) ||
                          __builtin_add_overflow(last, step, &last);
    if (overflow) throw InputError("its sizes are too large to be true");
  }
  if (count == 0) return at::empty(sizes, values.options());
  if (last >= values.numel()) throw InputError("its sizes and strides need more bytes than the file has");
  // What is expanded (stride 0) may be larger than the file by any factor.
  if (count > values.numel()) throw InputError("it is expanded from fewer numbers: save a copy of it, by clone()");
  return values.as_strided(sizes, strides, offset.number).clone(at::MemoryFormat::Contiguous);
}

bool holds_tensors(const PickledTensors& file, const PickledObject& dict) {
  for (std::size_t k = 1; dict.kind == Kind::dict && k < dict.parts.size(); k += 2) {
    if (file.is_tensor(file.part(dict, k))) return true;
  }
  return false;
}

std::string keys_of(const PickledTensors& file, const PickledObject& dict) {
  constexpr std::size_t most = 20;
  std::string keys;
  for (std::size_t k = 0; k < std::min(dict.parts.size(), most); k += 2) {
    const auto& key = file.part(dict, k);
    if (key.kind == Kind::text) keys += text(keys.empty() ? "" : ", ", "'", printable(key.text), "'");
  }
  return keys.empty() ? "nothing" : keys;
}

// By itself or under a usual key.
std::pair<const PickledObject*, std::string> state_dict_in(const PickledTensors& file) {
  const auto& whole = file.whole();
  for (const std::string key : usual_keys) {
    const auto* found = file.find(whole, key);
    if (found != nullptr && holds_tensors(file, *found)) return {found, key};
  }
  if (holds_tensors(file, whole)) return {&whole, ""};
  if (whole.kind != Kind::dict) {
    throw InputError("holds no state_dict, but some other object: write torch.save(net.state_dict(), FILE)");
  }
  throw InputError(
      text("holds a dict without a tensor in it, nor a state_dict under 'state_dict', 'model_state_dict' or "
           "'model'; its keys are ",
           keys_of(file, whole), ": write torch.save(checkpoint[KEY], FILE) with the key of the state_dict"));
}

}  // namespace

StateDict load_pickled_state_dict(const std::filesystem::path& path) {
  check_archive(path);
  PickledTensors file(path);
  const auto [dict, key] = state_dict_in(file);
  StateDict result{{}, key};
  for (std::size_t k = 0; k + 1 < dict->parts.size(); k += 2) {
    const auto &name = file.part(*dict, k), &value = file.part(*dict, k + 1);
    if (name.kind != Kind::text) throw InputError("holds a state_dict with a key that is no text");
    try {
      if (!file.is_tensor(value)) throw InputError("it is no plain tensor");
      result.tensors.push_back({name.text, file.tensor(value)});
    } catch (const InputError& error) {
      throw InputError(text("holds '", printable(name.text), "', which cannot be read: ", error.what()));
    }
  }
  return result;
}

}  // namespace hessian_mpi::network
