#include "hessian_mpi/network/data.hpp"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import_read.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>

#include "archive_check.hpp"
#include "exported_name.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/network/torch_error.hpp"
#include "tensor_text.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

constexpr const char* layout_wanted =
    "expected are `inputs` and `targets`: datasets of an HDF5 file (several of either: a group with datasets 0, 1, "
    "..., or inputs by the names of forward()'s arguments), or torch.save({'inputs': x, 'targets': y}, file) or "
    "torch.save((x, y), file)";

std::uint64_t physical_memory() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGE_SIZE));
}

// A file may declare any shape, in a few bytes: nothing is allocated for one that the machine cannot hold.
void require_plausible_size(const std::string& what, c10::IntArrayRef shape, std::size_t element_size) {
  std::uint64_t bytes = element_size;
  bool overflow = false;
  for (const auto extent : shape) {
    overflow = __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes) || overflow;
  }
  if (overflow || bytes > physical_memory()) {
    throw InputError(text(what, " has the shape ", shape, ", which is more than this machine's memory holds"));
  }
}

// ---- HDF5

// A dataset of a file, for messages.
struct Dataset {
  const hdf5::File& file;
  std::string name;
  std::string in_words() const { return text("dataset '", name, "' of '", file.path().string(), "'"); }
};

struct ElementType {
  hdf5::Type memory;
  torch::Dtype dtype;
};

ElementType element_type(const Dataset& dataset) {
  switch (dataset.file.type(dataset.name)) {
    case hdf5::Type::float32:
      return {hdf5::Type::float32, torch::kFloat};
    case hdf5::Type::float64:
      return {hdf5::Type::float64, torch::kDouble};
    case hdf5::Type::int8:
      return {hdf5::Type::int8, torch::kChar};
    case hdf5::Type::uint8:
      return {hdf5::Type::uint8, torch::kByte};
    case hdf5::Type::int16:
      return {hdf5::Type::int16, torch::kShort};
    case hdf5::Type::int32:
      return {hdf5::Type::int32, torch::kInt};
    case hdf5::Type::int64:
    case hdf5::Type::uint64:
      return {hdf5::Type::int64, torch::kLong};
    case hdf5::Type::boolean:
      return {hdf5::Type::boolean, torch::kBool};
    case hdf5::Type::string:
      throw InputError(text(dataset.in_words(), " holds strings; expected are numbers"));
    case hdf5::Type::other:
      break;
  }
  throw InputError(
      text(dataset.in_words(),
           " holds elements that are neither floating-point numbers nor integers nor booleans of at most 64 "
           "bits (a compound type?)"));
}

std::vector<std::int64_t> checked_shape(const Dataset& dataset) {
  const auto shape = dataset.file.shape(dataset.name);
  if (shape.empty()) {
    throw InputError(
        text(dataset.in_words(), " is a scalar; expected is a dataset whose first dimension is the sample"));
  }
  return {shape.begin(), shape.end()};
}

// What the user did not name is not read.
void require_in_file(const hdf5::File& file, const std::string& name) {
  if (const auto other = file.linked_file(name)) {
    throw InputError(text("'", printable(name), "' of '", file.path().string(), "' is a link to another file ('",
                          printable(*other), "'), which is not followed: copy what it leads to into one file"));
  }
}

// What the file does not hold, the library fills in with zeros, at a cost of memory and time that knows no bounds.
void require_stored(const Dataset& dataset, c10::IntArrayRef shape, std::size_t element_size) {
  constexpr std::uint64_t best_compression = 2048, always_allowed = 1 << 20;
  const std::uint64_t bytes = static_cast<std::uint64_t>(c10::multiply_integers(shape)) * element_size;
  const auto stored = dataset.file.stored_bytes(dataset.name);
  if (!stored) {
    throw InputError(text(dataset.in_words(),
                          " keeps its values in other files (a virtual dataset, or external storage), which are not "
                          "read: copy it into one file"));
  }
  const auto needed = dataset.file.needed_bytes(dataset.name);
  if (needed && *stored < *needed) {
    throw InputError(text(dataset.in_words(), " is damaged: its shape ", shape, " needs ", *needed,
                          " bytes, and the file has ", *stored, " for it"));
  }
  if (bytes <= always_allowed || bytes / best_compression <= *stored) return;
  throw InputError(text(dataset.in_words(), " has the shape ", shape, ", and the file holds ", *stored,
                        " bytes of it: it is damaged, or was never written"));
}

// A value that is missing makes no loss, and infinity may mean something: a mask, added to the scores of attention.
void require_no_nan(const std::string& what, const Tensor& values) {
  if (!values.is_floating_point() && !values.is_complex()) return;
  const std::string found = count_and_places(values.isnan());
  if (found.empty()) return;
  throw InputError(text(what, " holds NaN in ", found, ": leave these samples out, or replace the values"));
}

Tensor read_dataset(const Dataset& dataset) {
  require_in_file(dataset.file, dataset.name);
  const auto [memory, dtype] = element_type(dataset);
  const auto shape = checked_shape(dataset);
  require_plausible_size(dataset.in_words(), shape, c10::elementSize(dtype));
  require_stored(dataset, shape, c10::elementSize(dtype));
  Tensor values = at::empty(shape, dtype);
  if (values.numel() > 0) dataset.file.read(dataset.name, memory, values.data_ptr());
  require_no_nan(dataset.in_words(), values);
  return values;
}

std::string listed(const std::vector<std::string>& names) {
  return names.empty() ? "nothing" : printable(joined(names, ", "));
}

// The datasets 0, 1, ... of the group, in the order of their numbers, which is not that of their names.
std::vector<Tensor> read_group(const hdf5::File& file, const std::string& group) {
  const auto members = file.members(group);
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const std::string name = text(group, "/", i);
    if (!file.has(name)) {
      throw InputError(
          text("group '", group, "' of '", file.path().string(), "' holds ", listed(members),
               "; expected are datasets 0, 1, ... in the order in which the model or the loss takes them"));
    }
    tensors.push_back(read_dataset({file, name}));
  }
  return tensors;
}

bool is_number(const std::string& name) {
  return name.find_first_not_of("0123456789") == std::string::npos;
}

// Of the datasets in a group, where none of them is a number; else none.
std::vector<std::string> names_in(const hdf5::File& file, const std::string& group) {
  require_in_file(file, group);
  if (!file.is_group(group)) return {};
  auto members = file.members(group);
  if (std::any_of(members.begin(), members.end(), is_number)) members.clear();
  return members;
}

// A dataset, or a group of them.
std::vector<Tensor> read_tensors(const hdf5::File& file, const std::string& name) {
  require_in_file(file, name);
  return file.is_group(name) ? read_group(file, name) : std::vector{read_dataset({file, name})};
}

Data read_hdf5(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_untrusted(path);
  if (!file.has("inputs")) {
    throw InputError(
        text("'", path.string(), "' has no `inputs` (it holds: ", listed(file.members("/")), "); ", layout_wanted));
  }
  Data data;
  data.input_names = names_in(file, "inputs");
  for (const auto& name : data.input_names) data.inputs.push_back(read_dataset({file, "inputs/" + name}));
  if (data.input_names.empty()) data.inputs = read_tensors(file, "inputs");
  if (file.has("targets")) data.targets = read_tensors(file, "targets");
  return data;
}

// ---- torch.save

bool is_zip(const std::filesystem::path& path) {
  std::array<char, 4> head{};
  std::ifstream(path, std::ios::binary).read(head.data(), head.size());
  return head == std::array{'P', 'K', '\3', '\4'};
}

c10::IValue unpickled(const std::filesystem::path& path) {
  try {
    check_archive(path);
  } catch (const InputError& error) {
    throw InputError(text("'", path.string(), "' ", error.what()));
  }
  try {
    caffe2::serialize::PyTorchStreamReader archive(path.string());
    check_pickle(archive, "data.pkl", "data");
    return torch::jit::readArchiveAndTensors("data", "", "", std::nullopt, std::nullopt, torch::kCPU, archive);
  } catch (const InputError& error) {
    throw InputError(text("'", path.string(), "' ", error.what(),
                          "; a data file of torch.save may hold dense tensors in dicts, tuples and lists; ",
                          layout_wanted));
  } catch (const std::exception& error) {
    throw InputError(text("'", path.string(),
                          "' is no torch.save file of dense tensors in dicts, tuples and lists, or it is damaged: ",
                          message_of(error), "; ", layout_wanted));
  }
}

Tensor checked_tensor(const std::string& what, const c10::IValue& value, const std::filesystem::path& path) {
  if (!value.isTensor()) {
    throw InputError(
        text("`", what, "` in '", path.string(), "' is of type ", value.type()->repr_str(), "; expected is a tensor"));
  }
  const Tensor tensor = value.toTensor().detach();
  if (tensor.layout() != torch::kStrided || tensor.is_quantized() || !tensor.is_cpu()) {
    throw InputError(text("`", what, "` in '", path.string(),
                          "' is sparse, quantized or without values; expected is a dense tensor"));
  }
  if (!lies_in_its_storage(tensor)) {
    throw InputError(text("`", what, "` in '", path.string(), "' is damaged: its shape ", tensor.sizes(),
                          " needs more bytes than the file has for it"));
  }
  require_plausible_size(text("`", what, "` in '", path.string(), "'"), tensor.sizes(), tensor.itemsize());
  if (tensor.dim() == 0) {
    throw InputError(text("`", what, "` in '", path.string(),
                          "' is a scalar; expected is a tensor whose first dimension is the sample"));
  }
  require_no_nan(text("`", what, "` in '", path.string(), "'"), tensor);
  return tensor.contiguous();
}

// A tensor, or a tuple or list of them.
std::vector<Tensor> checked_tensors(const std::string& what, const c10::IValue& value,
                                    const std::filesystem::path& path) {
  std::vector<c10::IValue> values;
  if (value.isTuple()) {
    values = value.toTupleRef().elements().vec();
  } else if (value.isList()) {
    values = value.toListRef().vec();
  } else {
    return {checked_tensor(what, value, path)};
  }
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < values.size(); ++i)
    tensors.push_back(checked_tensor(text(what, ' ', i), values[i], path));
  return tensors;
}

Data from_dict(const c10::IValue& content, const std::filesystem::path& path) {
  std::map<std::string, c10::IValue> entries;
  for (const auto& entry : content.toGenericDict()) {
    if (entry.key().isString()) entries.emplace(entry.key().toStringRef(), entry.value());
  }
  if (!entries.contains("inputs"))
    throw InputError(text("the dict in '", path.string(), "' has no `inputs`; ", layout_wanted));
  Data data;
  if (const auto& inputs = entries["inputs"]; inputs.isGenericDict()) {
    for (const auto& entry : inputs.toGenericDict()) {
      if (!entry.key().isString())
        throw InputError(text("`inputs` in '", path.string(), "' is a dict with keys that are no names"));
      data.input_names.push_back(entry.key().toStringRef());
      data.inputs.push_back(checked_tensor("inputs " + printable(data.input_names.back()), entry.value(), path));
    }
  } else {
    data.inputs = checked_tensors("inputs", inputs, path);
  }
  const auto targets = entries.find("targets");
  if (targets != entries.end() && !targets->second.isNone())
    data.targets = checked_tensors("targets", targets->second, path);
  return data;
}

Data read_torch_save(const std::filesystem::path& path) {
  const c10::IValue content = unpickled(path);
  if (content.isGenericDict()) return from_dict(content, path);
  std::vector<c10::IValue> pair;
  if (content.isTuple()) pair = content.toTupleRef().elements().vec();
  if (content.isList()) pair = content.toListRef().vec();
  if (pair.size() != 2)
    throw InputError(text("'", path.string(), "' holds neither a dict nor a pair; ", layout_wanted));
  Data data;
  data.inputs = checked_tensors("inputs", pair[0], path);
  if (!pair[1].isNone()) data.targets = checked_tensors("targets", pair[1], path);
  return data;
}

// ---- both

void require_readable(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) throw InputError(text("--data '", path.string(), "': no such file"));
  if (!std::filesystem::is_regular_file(path, ignored))
    throw InputError(text("the data file '", path.string(), "' is not a file"));
  if (!std::ifstream(path)) throw InputError(text("the data file '", path.string(), "' cannot be read (permissions?)"));
}

Data read(const std::filesystem::path& path) {
  if (hdf5::is_hdf5(path)) return read_hdf5(path);
  if (is_zip(path)) return read_torch_save(path);
  throw InputError(text("'", path.string(),
                        "' is neither an HDF5 nor a torch.save file (of PyTorch 1.6 or later), or it is damaged; ",
                        layout_wanted));
}

// The same change made to every tensor.
template <class Change>
Data mapped(const Data& data, const Change& change) {
  Data result{{}, {}, data.input_names};
  for (const auto& input : data.inputs) result.inputs.push_back(change(input));
  for (const auto& target : data.targets) result.targets.push_back(change(target));
  return result;
}

const Tensor& tensor_of(const Data& data, std::size_t k) {
  return k < data.inputs.size() ? data.inputs[k] : data.targets[k - data.inputs.size()];
}

bool is_whole(const Whole& whole, std::size_t k) {
  return k < whole.size() && whole[k];
}

}  // namespace

std::int64_t Data::samples(const Whole& whole) const {
  for (std::size_t k = 0; k < inputs.size() + targets.size(); ++k) {
    if (!is_whole(whole, k)) return tensor_of(*this, k).size(0);
  }
  return 1;
}

bool Data::has_samples(const Whole& whole) const {
  for (std::size_t k = 0; k < inputs.size() + targets.size(); ++k) {
    if (!is_whole(whole, k) && tensor_of(*this, k).size(0) != samples(whole)) return false;
  }
  return true;
}

void Data::require_samples(const std::string& file, const Whole& whole) const {
  std::string counts;
  for (std::size_t k = 0; k < inputs.size() + targets.size(); ++k) {
    const auto* what = k == 0 ? "inputs " : k == inputs.size() ? "targets " : "";
    counts += text(k == 0 ? "" : ", ", what, tensor_of(*this, k).size(0), is_whole(whole, k) ? " (whole)" : "");
  }
  if (!has_samples(whole)) {
    throw InputError(text("the numbers of samples in ", file, " differ: ", counts,
                          "; the first dimension of every tensor is the sample, but of inputs that --whole names (or "
                          "of all, where the model computes the loss, --loss output, and there is no --batch-size)"));
  }
  if (samples(whole) == 0) throw InputError(text(file, " holds no sample: ", counts));
}

std::vector<bool> Data::named(const std::vector<std::string>& names, const std::vector<std::string>& arguments,
                              const std::string& option) const {
  std::vector<bool> result(inputs.size() + targets.size(), false);
  for (const auto& name : names) {
    const auto found = std::find_if(arguments.begin(), arguments.end(), [&](const std::string& argument) {
      return exported_name(argument) == exported_name(name);
    });
    const auto place = static_cast<std::size_t>(found - arguments.begin());
    if (found == arguments.end() || place >= result.size()) {
      throw InputError(
          text(option, " '", printable(name), "' is no input of the model, which takes ", listed(arguments)));
    }
    result[place] = true;
  }
  return result;
}

Data Data::in_order_of(const std::vector<std::string>& names) const {
  if (input_names.empty()) return *this;
  const auto mismatch = [&](const std::string& what) {
    return InputError(
        text("the data name their inputs ", listed(input_names), ", and the model takes ", listed(names), ": ", what));
  };
  Data ordered{{}, targets};
  std::vector<bool> taken(inputs.size(), false);
  for (std::size_t k = 0; k < std::min(names.size(), inputs.size()); ++k) {
    const auto found = std::find_if(input_names.begin(), input_names.end(), [&](const std::string& name) {
      return exported_name(name) == exported_name(names[k]);
    });
    if (found == input_names.end()) throw mismatch(text("the data have no '", printable(names[k]), "'"));
    const auto place = static_cast<std::size_t>(found - input_names.begin());
    ordered.inputs.push_back(inputs[place]);
    ordered.input_names.push_back(input_names[place]);
    taken[place] = true;
  }
  const auto left = std::find(taken.begin(), taken.end(), false);
  if (left != taken.end()) {
    throw mismatch(
        text("the model takes no '", printable(input_names[static_cast<std::size_t>(left - taken.begin())]), "'"));
  }
  return ordered;
}

Data Data::batch(std::int64_t begin, std::int64_t end, const Whole& whole) const {
  Data result = *this;
  for (std::size_t k = 0; k < inputs.size() + targets.size(); ++k) {
    if (is_whole(whole, k)) continue;
    auto& tensor = k < inputs.size() ? result.inputs[k] : result.targets[k - inputs.size()];
    tensor = tensor.slice(0, begin, end);
  }
  return result;
}

Data Data::repeated(std::int64_t copies) const {
  if (copies == 1) return *this;
  return mapped(*this, [copies](const Tensor& tensor) {
    return torch::cat(std::vector<Tensor>(static_cast<std::size_t>(copies), tensor));
  });
}

Data Data::converted(torch::Dtype dtype, torch::Device device) const {
  return mapped(*this, [=](const Tensor& tensor) {
    return tensor.to(device, tensor.is_floating_point() ? dtype : tensor.scalar_type());
  });
}

Data load_data(const std::filesystem::path& file, bool some_may_be_whole) {
  require_readable(file);
  Data data;
  try {
    data = read(file);
  } catch (const InputError&) {
    throw;
  } catch (const std::exception& error) {  // of the HDF5 library, or memory that ran out
    throw InputError(text("the data file '", file.string(), "' cannot be read: ", message_of(error)));
  }
  if (data.inputs.empty()) throw InputError(text("`inputs` in '", file.string(), "' is empty; ", layout_wanted));
  if (!some_may_be_whole) data.require_samples(text("'", file.string(), "'"));
  return data;
}

}  // namespace hessian_mpi::network
