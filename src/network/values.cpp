#include "values.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <string_view>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {
namespace {

std::string in_words(torch::Dtype dtype) {
  return std::string(c10::getDtypeNames(dtype).first);
}

bool begins_with(const std::filesystem::path& file, std::string_view wanted) {
  std::array<char, 4> head{};
  std::ifstream(file, std::ios::binary).read(head.data(), head.size());
  return std::string_view(head.data(), wanted.size()) == wanted;
}

void require_readable(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) throw InputError("no such file");
  if (!std::filesystem::is_regular_file(file, ignored)) throw InputError("is not a file");
  if (!std::ifstream(file)) throw InputError("cannot be read (permissions?)");
}

/// Names with what they have lost in front.
using ByName = std::map<std::string, const torch::Tensor*>;

ByName by_name(const std::vector<NamedTensor>& tensors) {
  ByName found;
  for (const auto& [name, value] : tensors) {
    if (!found.emplace(name, &value).second) throw InputError(text("has '", printable(name), "' twice"));
  }
  return found;
}

bool knows(const std::vector<StateTensor>& state, const std::string& name) {
  return std::any_of(state.begin(), state.end(), [&](const auto& tensor) { return tensor.name == name; });
}

bool knows_one_of(const std::vector<StateTensor>& state, const ByName& values) {
  return std::any_of(values.begin(), values.end(), [&](const auto& value) { return knows(state, value.first); });
}

// What wrappers put before all names: DistributedDataParallel "module.", torch.compile "_orig_mod.", trainers their
// own.
std::string take_off_prefix(const std::vector<StateTensor>& state, ByName& values) {
  std::string prefix;
  while (!values.empty() && !knows_one_of(state, values)) {
    const std::string first = values.begin()->first;
    const std::string part = first.substr(0, first.find('.') + 1);
    const auto has_it = [&](const auto& value) {
      return value.first.starts_with(part) && value.first.size() > part.size();
    };
    if (part.empty() || !std::all_of(values.begin(), values.end(), has_it)) return {};
    ByName shorter;
    for (const auto& [name, value] : values) shorter.emplace(name.substr(part.size()), value);
    values = std::move(shorter);
    prefix += part;
  }
  return prefix;
}

std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t most = 10;
  std::string list;
  for (std::size_t k = 0; k < std::min(most, names.size()); ++k)
    list += (k == 0 ? "'" : ", '") + printable(names[k]) + "'";
  return list + (names.size() > most ? text(" and ", names.size() - most, " more") : "");
}

// A tensor of several names needs one of them. Returns what is missing and need not be there.
std::vector<std::string> check_names(const std::vector<StateTensor>& state, const ByName& values) {
  const auto given = [&](const StateTensor& tensor) {
    return std::any_of(state.begin(), state.end(), [&](const StateTensor& other) {
      const bool same = other.name == tensor.name || (tensor.value.defined() && other.value.is_same(tensor.value));
      return same && values.contains(other.name);
    });
  };
  std::vector<std::string> missing, kept, unexpected;
  for (const auto& tensor : state) {
    if (given(tensor) || !tensor.value.defined()) continue;
    (tensor.optional ? kept : missing).push_back(tensor.name);
  }
  for (const auto& [name, value] : values) {
    if (!knows(state, name)) unexpected.push_back(name);
  }
  if (missing.empty() && unexpected.empty()) return kept;
  throw InputError(text(missing.empty() ? "" : text("lacks ", listed(missing), " of the model"),
                        missing.empty() || unexpected.empty() ? "" : ", and ",
                        unexpected.empty() ? "" : text("has ", listed(unexpected), ", which the model has not"),
                        ": it is of another network"));
}

void check_fits(const StateTensor& own, const torch::Tensor& value, std::optional<Precision> given) {
  const auto wrong = [&](const std::string& what) { throw InputError(text("'", printable(own.name), "' ", what)); };
  if (own.value.sizes() != value.sizes()) {
    wrong(text("has the shape ", value.sizes(), ", and the model's is ", own.value.sizes()));
  }
  const auto dtype = value.scalar_type(), of_model = own.value.scalar_type();
  const bool both_real = value.is_floating_point() && own.value.is_floating_point();
  const bool both_complex = value.is_complex() && own.value.is_complex();
  if (dtype != of_model && !both_real && !both_complex) {
    wrong(text("is ", in_words(dtype), ", and the model's is ", in_words(of_model)));
  }
  if (!given && c10::elementSize(dtype) > c10::elementSize(of_model)) {
    wrong(text("is ", in_words(dtype), ", and the model's is ", in_words(of_model),
               ": write --dtype float64 to compute with these values, or --dtype float32 to round them"));
  }
}

// Names of one tensor have to agree in what it is.
void copy(const StateTensor& own, const torch::Tensor& value, std::map<const void*, std::string>& set) {
  const torch::NoGradGuard values_only;
  const auto [first, is_first] = set.emplace(own.value.unsafeGetTensorImpl(), own.name);
  torch::Tensor target = own.value;
  if (is_first) {
    target.copy_(value);
  } else if (!target.equal(value.to(target.options()))) {
    throw InputError(text("has two values for '", printable(first->second), "' and '", printable(own.name),
                          "', which are one tensor in the model"));
  }
}

std::vector<std::string> set_values(Model& model, const StateDict& given, std::optional<Precision> precision) {
  const auto state = model.state();
  ByName values = by_name(given.tensors);
  std::vector<std::string> notes;
  if (!given.key.empty()) notes.push_back(text("are those under its key '", given.key, "'"));
  if (const auto prefix = take_off_prefix(state, values); !prefix.empty()) {
    notes.push_back(text("have names that begin with '", printable(prefix), "', which was taken off"));
  }
  if (const auto kept = check_names(state, values); !kept.empty()) {
    notes.push_back(text("lack the buffers ", listed(kept), ": those of the model were kept"));
  }
  std::map<const void*, std::string> set;
  for (const auto& own : state) {
    const auto found = values.find(own.name);
    if (found == values.end() || !own.value.defined()) continue;
    check_fits(own, *found->second, precision);
    copy(own, *found->second, set);
  }
  return notes;
}

}  // namespace

StateDict load_state_dict(const std::filesystem::path& file) try {
  require_readable(file);
  if (begins_with(file, "PK")) return load_pickled_state_dict(file);
  if (begins_with(file, "\x80")) {
    throw InputError(
        "was written by torch.save in its format before PyTorch 1.6, or by Python's pickle: write it again with "
        "torch.save(torch.load(OLD), NEW)");
  }
  if (is_safetensors(file)) return {load_safetensors(file), ""};
  throw InputError("is neither a file of torch.save nor safetensors, or it is damaged");
} catch (const InputError& error) {
  throw InputError(text("--values '", file.string(), "' ", error.what()));
} catch (const std::exception& error) {
  throw InputError(text("--values '", file.string(), "' cannot be read: ", message_of(error)));
}

std::vector<std::string> set_values(Model& model, const std::filesystem::path& file, std::optional<Precision> given) {
  const auto values = load_state_dict(file);
  try {
    auto notes = set_values(model, values, given);
    for (auto& note : notes) note = text("the values in '", file.string(), "' ", note);
    return notes;
  } catch (const InputError& error) {
    throw InputError(text("--values '", file.string(), "' ", error.what()));
  }
}

}  // namespace hessian_mpi::network
