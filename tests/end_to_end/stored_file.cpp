#include "stored_file.hpp"

#include <fstream>
#include <functional>
#include <stdexcept>

namespace end_to_end {
namespace {

// A handle of the HDF5 library that closes itself.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t), const std::string& what) : id_(id), close_(close) {
    if (id < 0) throw std::runtime_error("cannot open " + what);
  }
  ~Id() { close_(id_); }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void require(bool good, const std::string& what) {
  if (!good) throw std::runtime_error("cannot read " + what);
}

std::vector<std::uint64_t> shape_of(hid_t space) {
  std::vector<hsize_t> shape(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, shape.data(), nullptr);
  return {shape.begin(), shape.end()};
}

std::string name_of_type(hid_t type) {
  const auto bits = std::to_string(8 * H5Tget_size(type));
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return "float" + bits;
    case H5T_INTEGER:
      return (H5Tget_sign(type) == H5T_SGN_NONE ? "uint" : "int") + bits;
    case H5T_STRING:
      return "string";
    default:
      return "other";
  }
}

using Read = std::function<herr_t(hid_t memory_type, void* buffer)>;

template <class Number>
std::vector<Number> read_numbers(hid_t space, hid_t memory_type, const Read& read, const std::string& what) {
  std::vector<Number> numbers(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  require(read(memory_type, numbers.data()) >= 0, what);
  return numbers;
}

// Strings of either kind: of variable length, or padded to one length.
std::vector<std::string> read_strings(hid_t space, hid_t type, const Read& read, const std::string& what) {
  require(H5Tget_class(type) == H5T_STRING, what + " as text");
  const auto count = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space));
  const Id memory_type(H5Tcopy(type), H5Tclose, what);
  std::vector<std::string> strings;
  if (H5Tis_variable_str(type) > 0) {
    std::vector<char*> texts(count);
    require(read(memory_type, texts.data()) >= 0, what);
    strings.assign(texts.begin(), texts.end());
    H5Dvlen_reclaim(memory_type, space, H5P_DEFAULT, texts.data());
  } else {
    const auto length = H5Tget_size(type);
    std::vector<char> texts(count * length);
    require(read(memory_type, texts.data()) >= 0, what);
    for (std::size_t i = 0; i < count; ++i) {
      const std::string padded(texts.data() + i * length, length);
      strings.push_back(padded.substr(0, padded.find('\0')));
    }
  }
  return strings;
}

// A dataset or an attribute, opened with all that reading it takes.
struct Dataset {
  Dataset(hid_t file, const std::string& path)
      : what(path),
        id(H5Dopen2(file, path.c_str(), H5P_DEFAULT), H5Dclose, path),
        space(H5Dget_space(id), H5Sclose, path),
        type(H5Dget_type(id), H5Tclose, path),
        read([this](hid_t memory_type, void* buffer) {
          return H5Dread(id, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, buffer);
        }) {}
  std::string what;
  Id id;
  Id space;
  Id type;
  Read read;
};

struct Attribute {
  Attribute(hid_t file, const std::string& object, const std::string& name)
      : what("attribute " + name + " of " + object),
        id(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, what),
        space(H5Aget_space(id), H5Sclose, what),
        type(H5Aget_type(id), H5Tclose, what),
        read([this](hid_t memory_type, void* buffer) { return H5Aread(id, memory_type, buffer); }) {}
  std::string what;
  Id id;
  Id space;
  Id type;
  Read read;
};

template <class Number, class Source>
std::vector<Number> all_of(const Source& source, hid_t memory_type) {
  return read_numbers<Number>(source.space, memory_type, source.read, source.what);
}

template <class Value>
Value only(const std::vector<Value>& values, const std::string& what) {
  if (values.size() != 1) throw std::runtime_error(what + " is not one value");
  return values.front();
}

}  // namespace

StoredFile::StoredFile(const std::filesystem::path& path) : path_(path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  file_ = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file_ < 0) throw std::runtime_error("cannot open " + path.string() + " as HDF5");
}

StoredFile::~StoredFile() {
  H5Fclose(file_);
}

std::vector<std::uint64_t> StoredFile::shape(const std::string& dataset) const {
  return shape_of(Dataset(file_, dataset).space);
}

std::vector<double> StoredFile::numbers(const std::string& dataset) const {
  return all_of<double>(Dataset(file_, dataset), H5T_NATIVE_DOUBLE);
}

std::vector<std::int64_t> StoredFile::integers(const std::string& dataset) const {
  return all_of<std::int64_t>(Dataset(file_, dataset), H5T_NATIVE_INT64);
}

std::vector<std::uint64_t> StoredFile::checksums(const std::string& dataset) const {
  return all_of<std::uint64_t>(Dataset(file_, dataset), H5T_NATIVE_UINT64);
}

std::vector<std::string> StoredFile::strings(const std::string& dataset) const {
  const Dataset source(file_, dataset);
  return read_strings(source.space, source.type, source.read, source.what);
}

std::string StoredFile::type(const std::string& dataset) const {
  return name_of_type(Dataset(file_, dataset).type);
}

bool StoredFile::is_contiguous(const std::string& dataset) const {
  const Dataset source(file_, dataset);
  const Id properties(H5Dget_create_plist(source.id), H5Pclose, dataset);
  return H5Pget_layout(properties) == H5D_CONTIGUOUS;
}

bool StoredFile::is_compressed_or_checked(const std::string& dataset) const {
  const Dataset source(file_, dataset);
  const Id properties(H5Dget_create_plist(source.id), H5Pclose, dataset);
  return H5Pget_nfilters(properties) != 0;
}

std::uint64_t StoredFile::offset(const std::string& dataset) const {
  const haddr_t offset = H5Dget_offset(Dataset(file_, dataset).id);
  if (offset == HADDR_UNDEF) throw std::runtime_error(dataset + " has no place in the file");
  return offset;
}

std::string StoredFile::bytes(const std::string& dataset) const {
  const Dataset source(file_, dataset);
  std::string bytes(static_cast<std::size_t>(H5Sget_simple_extent_npoints(source.space)) * H5Tget_size(source.type),
                    '\0');
  std::ifstream in(path_, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(offset(dataset)));
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  require(static_cast<bool>(in), dataset);
  return bytes;
}

bool StoredFile::has_attribute(const std::string& object, const std::string& name) const {
  return H5Aexists_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

std::string StoredFile::attribute_type(const std::string& object, const std::string& name) const {
  return name_of_type(Attribute(file_, object, name).type);
}

std::string StoredFile::attribute_text(const std::string& object, const std::string& name) const {
  return only(attribute_strings(object, name), name);
}

double StoredFile::attribute_number(const std::string& object, const std::string& name) const {
  return only(all_of<double>(Attribute(file_, object, name), H5T_NATIVE_DOUBLE), name);
}

std::int64_t StoredFile::attribute_integer(const std::string& object, const std::string& name) const {
  return only(attribute_integers(object, name), name);
}

std::vector<std::int64_t> StoredFile::attribute_integers(const std::string& object, const std::string& name) const {
  return all_of<std::int64_t>(Attribute(file_, object, name), H5T_NATIVE_INT64);
}

std::vector<std::string> StoredFile::attribute_strings(const std::string& object, const std::string& name) const {
  const Attribute source(file_, object, name);
  return read_strings(source.space, source.type, source.read, source.what);
}

}  // namespace end_to_end
