#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "archive_check.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "values.hpp"

namespace hessian_mpi::network {
namespace {

using nlohmann::json;

constexpr std::uint64_t bytes_of_length = 8;
constexpr std::uint64_t longest_header = 100'000'000;
constexpr std::size_t most_dimensions = 64;

std::uint64_t length_of_header(std::istream& in) {
  std::array<unsigned char, bytes_of_length> bytes{};
  in.read(reinterpret_cast<char*>(bytes.data()), bytes.size());
  std::uint64_t length = 0;
  for (std::size_t k = bytes.size(); k > 0; --k) length = (length << 8) | bytes[k - 1];
  return length;
}

std::uint64_t whole_number(const json& value) {
  if (!value.is_number_unsigned()) damaged(text("not a size or a place: ", printable(value.dump())));
  return value.get<std::uint64_t>();
}

torch::Dtype dtype_named(const std::string& name) {
  static constexpr std::pair<const char*, torch::Dtype> all[] = {
      {"F64", torch::kFloat64}, {"F32", torch::kFloat32}, {"F16", torch::kFloat16}, {"BF16", torch::kBFloat16},
      {"I64", torch::kInt64},   {"I32", torch::kInt32},   {"I16", torch::kInt16},   {"I8", torch::kInt8},
      {"U8", torch::kUInt8},    {"BOOL", torch::kBool}};
  for (const auto& [known, dtype] : all) {
    if (name == known) return dtype;
  }
  throw InputError(text("has numbers of the type ", printable(name), ", which is not supported"));
}

/// A tensor as the header has it.
struct Entry {
  std::string name;
  torch::Dtype dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< in the bytes behind the header
  std::uint64_t end = 0;
};

Entry entry_from(const std::string& name, const json& value) try {
  Entry entry{name, dtype_named(value.at("dtype").get<std::string>()), {}};
  const json &shape = value.at("shape"), &offsets = value.at("data_offsets");
  if (!shape.is_array() || shape.size() > most_dimensions || !offsets.is_array() || offsets.size() != 2) {
    damaged("no shape, or no place");
  }
  std::uint64_t bytes = c10::elementSize(entry.dtype);
  for (const json& size : shape) {
    const auto extent = whole_number(size);
    const bool too_large = extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (too_large || __builtin_mul_overflow(bytes, extent, &bytes)) damaged("sizes too large to be true");
    entry.shape.push_back(static_cast<std::int64_t>(extent));
  }
  entry.begin = whole_number(offsets[0]);
  entry.end = whole_number(offsets[1]);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    damaged(text("its shape takes ", bytes, " bytes, and its place is ", entry.begin, " to ", entry.end));
  }
  return entry;
} catch (const InputError& error) {
  throw InputError(text(error.what(), " (tensor '", printable(name), "')"));
}

json header_from(std::istream& in, std::uint64_t length) {
  std::string bytes(length, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(length));
  std::set<std::string> names;
  const auto check = [&names](int depth, json::parse_event_t event, json& parsed) {
    constexpr int deepest = 4;
    if (depth > deepest) damaged("its header nests too deeply");
    const bool is_name = depth == 1 && event == json::parse_event_t::key;
    if (is_name && !names.insert(parsed.get<std::string>()).second) {
      damaged(text("two tensors of the name '", printable(parsed.get<std::string>()), "'"));
    }
    return true;
  };
  json header = json::parse(bytes, check);
  if (!header.is_object()) damaged("its header is no table of tensors");
  return header;
}

// One behind the other, without holes, to the end of the file: so no two share bytes, and none is cut off.
void check_places(std::vector<Entry>& entries, std::uint64_t bytes) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end || entry.end > bytes) {
      damaged(text("tensor '", printable(entry.name), "' has the bytes ", entry.begin, " to ", entry.end,
                   ", where those before it end with ", end, " and the file has ", bytes));
    }
    end = entry.end;
  }
  if (end != bytes) damaged(text("its tensors end with byte ", end, ", and the file has ", bytes));
}

torch::Tensor read(std::istream& in, const Entry& entry) {
  torch::Tensor value = at::empty(entry.shape, entry.dtype);
  if (entry.end == entry.begin) return value;
  in.read(static_cast<char*>(value.data_ptr()), static_cast<std::streamsize>(entry.end - entry.begin));
  if (!in) throw InputError("cannot be read to its end");
  if (entry.dtype == torch::kBool) return value.view(torch::kUInt8).ne(0);  // any other byte is no bool
  return value;
}

}  // namespace

bool is_safetensors(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  const auto length = length_of_header(in);
  return in && length <= longest_header && in.get() == '{';
}

std::vector<NamedTensor> load_safetensors(const std::filesystem::path& file) try {
  std::ifstream in(file, std::ios::binary);
  const auto size = std::filesystem::file_size(file);
  const auto length = length_of_header(in);
  if (!in || length > longest_header || length > size - bytes_of_length) damaged("it ends within its header");
  std::vector<Entry> entries;
  const json header = header_from(in, length);
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") entries.push_back(entry_from(name, value));
  }
  check_places(entries, size - bytes_of_length - length);
  std::vector<NamedTensor> tensors;
  for (const Entry& entry : entries) tensors.push_back({entry.name, read(in, entry)});
  return tensors;
} catch (const json::exception& error) {
  damaged(text("its header is not what safetensors writes: ", printable(error.what())));
}

}  // namespace hessian_mpi::network
