#include "exported_program/archive.hpp"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <array>
#include <limits>
#include <vector>

#include "archive_check.hpp"
#include "exported_program/pickled_tensors.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

using nlohmann::json;

constexpr std::size_t max_dimensions = 64;
// Nested graphs, of which there may be 64, take about ten levels each.
constexpr int max_json_depth = 1000;
// An expanded tensor (stride 0) is larger than its record: this bounds what a few bytes of file can ask for.
constexpr std::int64_t max_expanded_bytes = std::int64_t{1} << 30;

struct Layout {
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
  std::int64_t offset = 0;
};

std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) throw InputError("sizes too large to be true");
  return product;
}

std::int64_t checked_sum(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) throw InputError("sizes too large to be true");
  return sum;
}

// A size of a stored tensor: torch.export writes {"as_int": 5}; symbols make no sense here.
std::int64_t concrete(const json& size) {
  const std::int64_t value = integer_from(size.at("as_int"));
  if (value < 0) throw InputError(text("a negative size, stride or offset (", value, ")"));
  return value;
}

Layout layout_from(const json& meta) {
  Layout layout;
  for (const json& size : meta.at("sizes")) layout.sizes.push_back(concrete(size));
  for (const json& stride : meta.at("strides")) layout.strides.push_back(concrete(stride));
  layout.offset = concrete(meta.at("storage_offset"));
  if (layout.sizes.size() != layout.strides.size() || layout.sizes.size() > max_dimensions) {
    throw InputError(text(layout.sizes.size(), " sizes and ", layout.strides.size(), " strides"));
  }
  return layout;
}

std::int64_t element_count(const Layout& layout) {
  std::int64_t count = 1;
  for (const std::int64_t size : layout.sizes) count = checked_product(count, size);
  return count;
}

// Elements of storage that the layout reaches, counted from the storage's start.
std::int64_t reach(const Layout& layout) {
  std::int64_t last = layout.offset;
  for (std::size_t d = 0; d < layout.sizes.size(); ++d) {
    last = checked_sum(last, checked_product(layout.sizes[d] - 1, layout.strides[d]));
  }
  return checked_sum(last, 1);
}

bool starts_and_ends(const std::string& name, const std::string& start, const std::string& end) {
  return name.size() > start.size() + end.size() && name.starts_with(start) && name.ends_with(end);
}

// torch.export.save calls its program "model"; packages of several programs have names of their own.
std::string only_model(caffe2::serialize::PyTorchStreamReader& reader) {
  const std::string start = "models/", end = ".json";
  std::vector<std::string> names;
  for (const std::string& record : reader.getAllRecords()) {
    if (starts_and_ends(record, start, end)) {
      names.push_back(record.substr(start.size(), record.size() - start.size() - end.size()));
    }
  }
  if (names.empty()) throw InputError("holds no exported program (no models/*.json); write it with torch.export.save");
  if (names.size() > 1) throw InputError(text("holds ", names.size(), " programs; save one with torch.export.save"));
  return names.front();
}

std::filesystem::path checked(const std::filesystem::path& file) {
  check_archive(file);
  return file;
}

}  // namespace

std::int64_t integer_from(const json& value) {
  const bool representable =
      value.is_number_integer() &&
      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max());
  if (!representable) throw InputError(text("not an integer: ", printable(value.dump())));
  return value.get<std::int64_t>();
}

torch::Dtype dtype_from(const json& value) {
  // torch/_export/serde/schema.py, ScalarType: 1 to 13, and 28 to 35.
  static constexpr std::array first = {
      c10::kByte,   c10::kChar,        c10::kShort,        c10::kInt,           c10::kLong, c10::kHalf,    c10::kFloat,
      c10::kDouble, c10::kComplexHalf, c10::kComplexFloat, c10::kComplexDouble, c10::kBool, c10::kBFloat16};
  static constexpr std::array second = {c10::kUInt16,          c10::kFloat8_e4m3fn,   c10::kFloat8_e5m2,
                                        c10::kFloat8_e4m3fnuz, c10::kFloat8_e5m2fnuz, c10::kFloat8_e8m0fnu,
                                        c10::kUInt32,          c10::kUInt64};
  constexpr std::int64_t first_begin = 1, second_begin = 28;
  const std::int64_t number = integer_from(value);
  const auto among = [number](const auto& dtypes, std::int64_t begin) {
    return number >= begin && number - begin < static_cast<std::int64_t>(dtypes.size());
  };
  if (among(first, first_begin)) return first[static_cast<std::size_t>(number - first_begin)];
  if (among(second, second_begin)) return second[static_cast<std::size_t>(number - second_begin)];
  throw InputError(text("dtype number ", number, " of torch.export's format is not supported"));
}

template <class Json>
Json ExportedArchive::document(const std::string& record) {
  if (!reader_->hasRecord(record)) throw InputError(text("has no ", printable(record)));
  const auto [bytes, size] = reader_->getRecord(record);
  const char* begin = static_cast<const char*>(bytes.get());
  // Copies and destructors of nlohmann's values call themselves.
  const auto check_depth = [](int depth, typename Json::parse_event_t, Json&) {
    if (depth > max_json_depth) throw InputError("nests its parts too deeply");
    return true;
  };
  return Json::parse(begin, begin + size, check_depth);
}

ExportedArchive::ExportedArchive(const std::filesystem::path& file)
    : reader_(std::make_unique<caffe2::serialize::PyTorchStreamReader>(checked(file).string())),
      model_name_(only_model(*reader_)) {
  if (reader_->hasRecord("byteorder")) {
    const auto [bytes, size] = reader_->getRecord("byteorder");
    if (std::string(static_cast<const char*>(bytes.get()), size) != "little") {
      throw InputError("was written on a machine with another byte order");
    }
  }
  weights_ = folder("weights");
  constants_ = folder("constants");
}

ExportedArchive::Folder ExportedArchive::folder(const std::string& kind) {
  Folder found{text("data/", kind, "/"), nullptr, {}};
  const std::string pickle = found.path + model_name_ + ".pt";
  if (reader_->hasRecord(pickle)) {
    const auto [bytes, size] = reader_->getRecord(pickle);
    found.pickled = pickled_tensors({static_cast<const char*>(bytes.get()), size});
  } else {
    const std::string config = text(found.path, model_name_, "_", kind, "_config.json");
    found.config = document<nlohmann::ordered_json>(config).at("config");
  }
  return found;
}

ExportedArchive::~ExportedArchive() = default;

json ExportedArchive::program() {
  return document("models/" + model_name_ + ".json");
}

std::vector<std::string> ExportedArchive::parameter_names(const std::set<std::string>& used) const {
  std::vector<std::string> names;
  for (const auto& [name, payload] : weights_.config.items()) {
    if (payload.at("is_param").get<bool>()) names.push_back(name);
  }
  for (const auto& [name, tensor] : weights_.pickled) {
    if (tensor.requires_grad() || used.contains(name)) names.push_back(name);
  }
  return names;
}

std::vector<std::string> ExportedArchive::weight_names() const {
  std::vector<std::string> names;
  for (const auto& [name, payload] : weights_.config.items()) names.push_back(name);
  for (const auto& [name, tensor] : weights_.pickled) names.push_back(name);
  return names;
}

const torch::Tensor* ExportedArchive::known_weight(const std::string& name) const {
  for (const auto& [known, value] : weights_.pickled) {
    if (known == name) return &value;
  }
  const auto found = weights_.config.find(name);
  if (found == weights_.config.end()) return nullptr;
  const std::string record = weights_.path + found->at("path_name").get<std::string>();
  const auto read = tensors_.find({record, found->at("tensor_meta").dump()});
  return read == tensors_.end() ? nullptr : &read->second;
}

torch::Tensor ExportedArchive::weight(const std::string& name) {
  return tensor(weights_, name);
}

torch::Tensor ExportedArchive::constant(const std::string& name) {
  return tensor(constants_, name);
}

torch::Tensor ExportedArchive::tensor(const Folder& folder, const std::string& name) {
  for (const auto& [known, value] : folder.pickled) {
    if (known == name) return value;
  }
  const auto found = folder.config.find(name);
  if (found == folder.config.end()) throw InputError(text("has no tensor '", printable(name), "' in ", folder.path));
  const std::string path = found->at("path_name").get<std::string>();
  const bool leads_out = path.starts_with('/') || ("/" + path + "/").find("/../") != std::string::npos;
  if (leads_out) {
    throw InputError(text("keeps the tensor '", printable(name), "' in '", printable(path),
                          "', a path that leads out of the folder of tensors"));
  }
  const std::string record = folder.path + path;
  if (found->at("use_pickle").get<bool>()) {
    throw InputError(
        text("keeps '", printable(name),
             "' as a pickled Python object (a tensor subclass or custom object), which cannot be read without Python"));
  }
  torch::Tensor& value = tensors_[{record, found->at("tensor_meta").dump()}];
  if (!value.defined()) value = read_tensor(record, json(found->at("tensor_meta")), name);
  return value;
}

torch::Tensor ExportedArchive::read_tensor(const std::string& record, const json& meta, const std::string& name) try {
  const torch::Dtype dtype = dtype_from(meta.at("dtype"));
  constexpr std::int64_t strided = 7;  // torch/_export/serde/schema.py, Layout
  if (integer_from(meta.at("layout")) != strided) throw InputError("it is sparse or in a layout of a library");
  const Layout layout = layout_from(meta);
  const std::int64_t count = element_count(layout);
  torch::Tensor value;
  if (count == 0) {
    value = torch::empty(layout.sizes, dtype);
  } else {
    if (!reader_->hasRecord(record)) throw InputError(text("the archive has no ", printable(record)));
    const auto [bytes, size] = reader_->getRecord(record);
    const auto item = static_cast<std::int64_t>(c10::elementSize(dtype));
    const auto stored = static_cast<std::int64_t>(size) / item;
    if (reach(layout) > stored) {
      throw InputError(
          text("its sizes and strides need ", reach(layout), " elements, ", printable(record), " holds ", stored));
    }
    if (count > stored && checked_product(count, item) > max_expanded_bytes) {
      throw InputError("its sizes are too large to be true");
    }
    const torch::Tensor storage = at::from_blob(bytes.get(), {stored}, dtype);
    value = storage.as_strided(layout.sizes, layout.strides, layout.offset).clone(at::MemoryFormat::Contiguous);
  }
  const bool differentiable = at::isFloatingType(dtype) || at::isComplexType(dtype);
  return value.set_requires_grad(differentiable && meta.at("requires_grad").get<bool>());
} catch (const InputError& error) {
  throw InputError(text("tensor '", printable(name), "': ", error.what()));
}

}  // namespace hessian_mpi::network
