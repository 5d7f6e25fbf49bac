#include "hessian_mpi/hdf5/hdf5.hpp"

#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/hdf5/raw_file.hpp"

namespace hessian_mpi::hdf5 {
namespace {

// Stripes of parallel file systems are multiples of this.
constexpr hsize_t alignment = 1 << 20;

// HDF5 prints its error stack to stderr unless told otherwise; the stack's deepest message goes into the exception
// instead, so that a user reads one message. Per call, because the setting belongs to a thread.
struct SilentErrors {
  SilentErrors() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }
};

herr_t keep_description(unsigned depth, const H5E_error2_t* error, void* description) {
  if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(description) = error->desc;
  return 0;
}

std::string last_error() {
  std::string description;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_description, &description);
  return description.empty() ? "no reason given" : description;
}

// Returns result, throwing where it says failure (negative, as everywhere in HDF5).
template <class Result, class... What>
Result check(Result result, const What&... what) {
  if (result < 0) throw RunError(text("HDF5 could not ", what..., ": ", last_error()));
  return result;
}

// Adapts a closing function of the library to Handle.
template <auto close>
int closer(std::int64_t id) {
  return close(static_cast<hid_t>(id));
}

Handle property_list(hid_t kind) {
  const SilentErrors silent;
  return {check(H5Pcreate(kind), "create a property list"), closer<H5Pclose>};
}

Handle file_access() {
  Handle access = property_list(H5P_FILE_ACCESS);
  // Pieces of rows are read as they are, not with what lies around them.
  check(H5Pset_sieve_buf_size(access.id(), 1), "turn off the reading of more than is asked for");
  // Without locks: some file systems of clusters know none, and someone who looks at the file of a running job must not
  // end it. (HDF5_USE_FILE_LOCKING wins over this.)
  check(H5Pset_file_locking(access.id(), /*use=*/false, /*ignore_when_disabled=*/true), "choose how files are locked");
  return access;
}

Handle string_type() {
  Handle type(check(H5Tcopy(H5T_C_S1), "copy a string type"), closer<H5Tclose>);
  check(H5Tset_size(type.id(), H5T_VARIABLE), "make a string type of variable length");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), "set the character set of a string type");
  return type;
}

// Octave reads no fixed strings that are marked as UTF-8, so only those are that have to be.
H5T_cset_t character_set_of(const std::vector<char>& characters) {
  const bool ascii = std::all_of(characters.begin(), characters.end(), [](char c) { return (c & '\x80') == 0; });
  return ascii ? H5T_CSET_ASCII : H5T_CSET_UTF8;
}

Handle fixed_string_type(std::size_t length, H5T_cset_t character_set) {
  Handle type(check(H5Tcopy(H5T_C_S1), "copy a string type"), closer<H5Tclose>);
  check(H5Tset_size(type.id(), length), "set the length of a string type");
  check(H5Tset_strpad(type.id(), H5T_STR_NULLPAD), "set the padding of a string type");
  check(H5Tset_cset(type.id(), character_set), "set the character set of a string type");
  return type;
}

hid_t native_type(Type type) {
  switch (type) {
    case Type::int8:
      return H5T_NATIVE_INT8;
    case Type::uint8:
      return H5T_NATIVE_UINT8;
    case Type::boolean:
      return H5T_NATIVE_INT8;
    case Type::int16:
      return H5T_NATIVE_INT16;
    case Type::int32:
      return H5T_NATIVE_INT32;
    case Type::int64:
      return H5T_NATIVE_INT64;
    case Type::uint64:
      return H5T_NATIVE_UINT64;
    case Type::float32:
      return H5T_NATIVE_FLOAT;
    case Type::float64:
      return H5T_NATIVE_DOUBLE;
    case Type::string:
    case Type::other:
      break;
  }
  throw RunError("HDF5 elements of this type can be neither read nor written here");
}

Type integer_type(std::size_t size, bool is_signed) {
  switch (size) {
    case 1:
      return is_signed ? Type::int8 : Type::uint8;
    case 2:
      return is_signed ? Type::int16 : Type::int32;
    case 4:
      return is_signed ? Type::int32 : Type::int64;
    case 8:
      return is_signed ? Type::int64 : Type::uint64;
    default:
      return Type::other;
  }
}

// The smallest of our types that holds every value of the file's.
Type nearest_type(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      return integer_type(H5Tget_size(type), H5Tget_sign(type) == H5T_SGN_2);
    case H5T_FLOAT:
      return H5Tget_size(type) <= 4 ? Type::float32 : H5Tget_size(type) == 8 ? Type::float64 : Type::other;
    // h5py writes booleans as an enumeration of two members over int8.
    case H5T_ENUM:
      return H5Tget_size(type) == 1 && H5Tget_nmembers(type) == 2 ? Type::boolean : Type::other;
    case H5T_STRING:
      return Type::string;
    default:
      return Type::other;
  }
}

Handle open_dataset(hid_t file, const std::string& name, const std::filesystem::path& path) {
  const SilentErrors silent;
  return {check(H5Dopen2(file, name.c_str(), H5P_DEFAULT), "open dataset '", name, "' of '", path.string(), "'"),
          closer<H5Dclose>};
}

Handle space_of(const Handle& dataset) {
  return {check(H5Dget_space(dataset.id()), "get the shape of a dataset"), closer<H5Sclose>};
}

Handle new_space(const std::vector<std::uint64_t>& shape) {
  if (shape.empty()) return {check(H5Screate(H5S_SCALAR), "describe a scalar"), closer<H5Sclose>};
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return {check(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), "describe a shape"),
          closer<H5Sclose>};
}

// Selects the tile in the dataset's space and returns the matching space of memory.
Handle select(const Handle& file_space, const Tile& tile) {
  Handle memory = new_space({tile.rows, tile.columns});
  if (tile.rows == 0 || tile.columns == 0) {
    check(H5Sselect_none(file_space.id()), "select nothing");
    check(H5Sselect_none(memory.id()), "select nothing");
    return memory;
  }
  const auto dimensions = check(H5Sget_simple_extent_ndims(file_space.id()), "ask for the dimensions of a dataset");
  if (dimensions < 1 || dimensions > 2) throw RunError("a tile is of a dataset with one or two dimensions");
  const std::array<hsize_t, 2> start{tile.row, tile.column};
  const std::array<hsize_t, 2> count{tile.rows, tile.columns};
  check(H5Sselect_hyperslab(file_space.id(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr),
        "select rows ", tile.row, " to ", tile.row + tile.rows);
  return memory;
}

// An attribute with the given value: replaced in place where it exists with this type and shape, else made anew.
void write_attribute(hid_t file, const std::filesystem::path& path, const std::string& object, const std::string& name,
                     const Handle& type, const std::vector<std::uint64_t>& shape, const void* values) {
  const SilentErrors silent;
  const Handle space = new_space(shape);
  const auto where = text("attribute '", name, "' of '", object, "' in '", path.string(), "'");
  const Handle parent(check(H5Oopen(file, object.c_str(), H5P_DEFAULT), "open '", object, "' of '", path.string(), "'"),
                      closer<H5Oclose>);
  if (check(H5Aexists(parent.id(), name.c_str()), "look for ", where) > 0) {
    const Handle old(check(H5Aopen(parent.id(), name.c_str(), H5P_DEFAULT), "open ", where), closer<H5Aclose>);
    const Handle old_type(check(H5Aget_type(old.id()), "get the type of ", where), closer<H5Tclose>);
    const Handle old_space(check(H5Aget_space(old.id()), "get the shape of ", where), closer<H5Sclose>);
    if (H5Tequal(old_type.id(), type.id()) > 0 && H5Sextent_equal(old_space.id(), space.id()) > 0) {
      check(H5Awrite(old.id(), type.id(), values), "write ", where);
      return;
    }
    check(H5Adelete(parent.id(), name.c_str()), "replace ", where);
  }
  const Handle attribute(
      check(H5Acreate2(parent.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT), "create ", where),
      closer<H5Aclose>);
  check(H5Awrite(attribute.id(), type.id(), values), "write ", where);
}

// The attribute, if there is one with a single value of that class; else an empty handle.
Handle open_attribute(hid_t file, const std::string& object, const std::string& name, H5T_class_t wanted) {
  const SilentErrors silent;
  if (H5Aexists_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT) <= 0) return {};
  Handle attribute(check(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
                         "open attribute '", name, "' of '", object, "'"),
                   closer<H5Aclose>);
  const Handle type(check(H5Aget_type(attribute.id()), "get the type of attribute '", name, "'"), closer<H5Tclose>);
  const Handle space(check(H5Aget_space(attribute.id()), "get the shape of attribute '", name, "'"), closer<H5Sclose>);
  const bool single = H5Sget_simple_extent_npoints(space.id()) == 1;
  return single && H5Tget_class(type.id()) == wanted ? std::move(attribute) : Handle();
}

template <class Number>
std::optional<Number> number_of(const Handle& attribute, hid_t type, const std::string& name,
                                const std::filesystem::path& path) {
  if (attribute.id() < 0) return std::nullopt;
  const SilentErrors silent;
  Number value = 0;
  check(H5Aread(attribute.id(), type, &value), "read attribute '", name, "' of '", path.string(), "'");
  return value;
}

// Copies of HDF5's predefined types, so that one function takes them and made ones alike.
Handle copy_of_type(hid_t type) {
  return {check(H5Tcopy(type), "copy a type"), closer<H5Tclose>};
}

std::vector<const char*> pointers(const std::vector<std::string>& values) {
  std::vector<const char*> result;
  result.reserve(values.size());
  for (const auto& value : values) result.push_back(value.c_str());
  return result;
}

// What a link of a kind other than hard leads to: the name of a file, a path in this one.
struct Target {
  bool is_in_another_file = false;
  std::string name;
};

Target target_of(hid_t file, const std::string& link, const H5L_info_t& info) {
  std::vector<char> value(info.u.val_size + 1, '\0');
  check(H5Lget_val(file, link.c_str(), value.data(), info.u.val_size, H5P_DEFAULT), "read the link '", link, "'");
  if (info.type == H5L_TYPE_SOFT) return {false, value.data()};
  const char* other = nullptr;
  const bool known = info.type == H5L_TYPE_EXTERNAL &&
                     H5Lunpack_elink_val(value.data(), info.u.val_size, nullptr, &other, nullptr) >= 0;
  return {true, known ? other : "unknown"};
}

// From component to component of the path: the library would follow all links by itself, and open what they name.
std::optional<std::string> linked_file_of(hid_t file, const std::string& path, int links_allowed) {
  for (std::size_t end = 0; end < path.size();) {
    end = std::min(path.find('/', end + 1), path.size());
    const std::string link = path.substr(0, end);
    if (link.find_first_not_of("/.") == std::string::npos) continue;  // the root
    H5L_info_t info{};
    if (H5Lget_info(file, link.c_str(), &info, H5P_DEFAULT) < 0) return std::nullopt;  // not there
    if (info.type == H5L_TYPE_HARD) continue;
    const auto target = target_of(file, link, info);
    if (target.is_in_another_file) return target.name;
    if (links_allowed == 0) return std::nullopt;
    const std::string folder = target.name.starts_with('/') ? "" : link.substr(0, link.rfind('/') + 1);
    return linked_file_of(file, folder + target.name + path.substr(end), links_allowed - 1);
  }
  return std::nullopt;
}

herr_t append_name(hid_t, const char* name, const H5L_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

herr_t append_attribute_name(hid_t, const char* name, const H5A_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

// Elements in the type that they have in the file; what they refer to is given back with them.
struct RawValues {
  Handle type;
  Handle space;
  std::vector<char> bytes;
  RawValues(Handle values_type, Handle values_space) : type(std::move(values_type)), space(std::move(values_space)) {}
  RawValues(RawValues&&) = default;
  RawValues(const RawValues&) = delete;
  RawValues& operator=(RawValues&&) = delete;
  RawValues& operator=(const RawValues&) = delete;
  ~RawValues() {
    if (!bytes.empty() && H5Tis_variable_str(type.id()) > 0) {
      H5Dvlen_reclaim(type.id(), space.id(), H5P_DEFAULT, bytes.data());
    }
  }
};

// How datasets and attributes are read.
struct ReadingCalls {
  hid_t (*type)(hid_t);
  hid_t (*space)(hid_t);
  herr_t (*read)(hid_t object, hid_t type, void* to);
};
constexpr ReadingCalls dataset_calls{H5Dget_type, H5Dget_space, [](hid_t object, hid_t type, void* to) {
                                       return H5Dread(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to);
                                     }};
constexpr ReadingCalls attribute_calls{H5Aget_type, H5Aget_space, H5Aread};

RawValues values_of(const Handle& object, const ReadingCalls& calls, const std::string& where) {
  const SilentErrors silent;
  RawValues values(Handle(check(calls.type(object.id()), "get the type of ", where), closer<H5Tclose>),
                   Handle(check(calls.space(object.id()), "get the shape of ", where), closer<H5Sclose>));
  const auto count = check(H5Sget_simple_extent_npoints(values.space.id()), "count the elements of ", where);
  std::vector<char> bytes(static_cast<std::size_t>(count) * H5Tget_size(values.type.id()));
  check(calls.read(object.id(), values.type.id(), bytes.data()), "read ", where);
  values.bytes = std::move(bytes);
  return values;
}

Handle open_any_attribute(hid_t file, const std::string& object, const std::string& name, const std::string& where) {
  const SilentErrors silent;
  return {check(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), "open ", where),
          closer<H5Aclose>};
}

// The members of a group, in the order of their names.
std::vector<std::string> members_of(hid_t file, const std::string& group, const std::filesystem::path& path) {
  const SilentErrors silent;
  std::vector<std::string> names;
  check(H5Literate_by_name(file, group.c_str(), H5_INDEX_NAME, H5_ITER_INC, nullptr, append_name, &names, H5P_DEFAULT),
        "list '", group, "' of '", path.string(), "'");
  return names;
}

// The text of a view's source, which get() gives.
template <class Get>
std::string source_text(hid_t layout, const Get& get, const std::string& view) {
  const auto length = check(get(layout, 0, nullptr, 0), "get the source of '", view, "'");
  std::string name(static_cast<std::size_t>(length), '\0');
  check(get(layout, 0, name.data(), name.size() + 1), "get the source of '", view, "'");
  return name;
}

// "FILE DATASET row column rows columns"; nothing of a dataset with numbers of its own.
std::optional<std::string> text_of_view(hid_t file, const std::string& name, const std::filesystem::path& path) {
  const Handle dataset = open_dataset(file, name, path);
  const Handle layout(check(H5Dget_create_plist(dataset.id()), "get the layout of '", name, "'"), closer<H5Pclose>);
  std::size_t sources = 0;
  if (H5Pget_layout(layout.id()) != H5D_VIRTUAL) return std::nullopt;
  check(H5Pget_virtual_count(layout.id(), &sources), "count the sources of '", name, "'");
  if (sources != 1) throw RunError(text("'", name, "' of '", path.string(), "' is no view"));
  const Handle tile(check(H5Pget_virtual_srcspace(layout.id(), 0), "get the source of '", name, "'"), closer<H5Sclose>);
  if (H5Sget_simple_extent_ndims(tile.id()) != 2) throw RunError(text("'", name, "' is a view of no matrix"));
  std::array<hsize_t, 2> first{};
  std::array<hsize_t, 2> last{};
  check(H5Sget_select_bounds(tile.id(), first.data(), last.data()), "get the tile of '", name, "'");
  return text(source_text(layout.id(), H5Pget_virtual_filename, name), ' ',
              source_text(layout.id(), H5Pget_virtual_dsetname, name), ' ', first[0], ' ', first[1], ' ',
              last[0] - first[0] + 1, ' ', last[1] - first[1] + 1);
}

}  // namespace

Handle::Handle(Handle&& other) noexcept
    : id_(std::exchange(other.id_, -1)), close_(std::exchange(other.close_, nullptr)) {}

Handle& Handle::operator=(Handle&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(close_, other.close_);
  return *this;
}

std::int64_t Handle::release() {
  return std::exchange(id_, -1);
}

Handle::~Handle() {
  if (id_ >= 0 && close_ != nullptr) close_(id_);
}

File File::create(const std::filesystem::path& path) {
  const SilentErrors silent;
  const Handle access = file_access();
  // 1.8: readers heed no flag of open writers in its superblock, and its object headers have checksums. Only virtual
  // datasets take more.
  check(H5Pset_libver_bounds(access.id(), H5F_LIBVER_V18, H5F_LIBVER_V110), "set the format version");
  check(H5Pset_alignment(access.id(), alignment, alignment), "set the alignment");
  return {path,
          Handle(check(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access.id()), "create '", path.string(), "'"),
                 closer<H5Fclose>)};
}

File File::open_to_read(const std::filesystem::path& path) {
  const SilentErrors silent;
  const Handle access = file_access();
  return {path, Handle(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), "open '", path.string(), "'"),
                       closer<H5Fclose>)};
}

// Meant for files that another process writes at the same time. Here for what comes with it: the library does without
// its accumulator of metadata, which copies from nowhere where an address in a file is undefined (HDF5 1.10.8).
File File::open_untrusted(const std::filesystem::path& path) {
  const SilentErrors silent;
  const Handle access = file_access();
  const unsigned flags = H5F_ACC_RDONLY | H5F_ACC_SWMR_READ;
  // Of metadata whose checksum is wrong, with pauses from a nanosecond on, each twice the last: 2 ms in all, where the
  // library's 100 have no end.
  constexpr unsigned attempts = 20;
  check(H5Pset_metadata_read_attempts(access.id(), attempts), "choose how often metadata is read");
  return {path,
          Handle(check(H5Fopen(path.c_str(), flags, access.id()), "open '", path.string(), "'"), closer<H5Fclose>)};
}

File File::open_to_write(const std::filesystem::path& path) {
  const SilentErrors silent;
  const Handle access = file_access();
  check(H5Pset_libver_bounds(access.id(), H5F_LIBVER_V18, H5F_LIBVER_V110), "set the format version");
  return {path,
          Handle(check(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.id()), "open '", path.string(), "' for writing"),
                 closer<H5Fclose>)};
}

File File::open_parallel(const std::filesystem::path& path, MPI_Comm communicator) {
  const SilentErrors silent;
  const Handle access = file_access();
  check(H5Pset_fapl_mpio(access.id(), communicator, MPI_INFO_NULL), "use MPI-IO");
  check(H5Pset_libver_bounds(access.id(), H5F_LIBVER_V18, H5F_LIBVER_V18), "set the format version");
  return {path, Handle(check(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.id()), "open '", path.string(),
                             "' on all ranks (is its file system mounted on every node?)"),
                       closer<H5Fclose>)};
}

bool File::has(const std::string& object) const {
  const SilentErrors silent;
  return H5Lexists(file_.id(), object.c_str(), H5P_DEFAULT) > 0;
}

bool File::is_group(const std::string& object) const {
  const SilentErrors silent;
  const Handle opened(
      check(H5Oopen(file_.id(), object.c_str(), H5P_DEFAULT), "open '", object, "' of '", path_.string(), "'"),
      closer<H5Oclose>);
  return H5Iget_type(opened.id()) == H5I_GROUP;
}

std::vector<std::string> File::members(const std::string& group) const {
  return members_of(file_.id(), group, path_);
}

Type File::type(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle type(check(H5Dget_type(dataset.id()), "get the type of '", name, "'"), closer<H5Tclose>);
  return nearest_type(type.id());
}

std::vector<std::uint64_t> File::shape(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle space = space_of(dataset);
  if (H5Sget_simple_extent_type(space.id()) == H5S_NULL)
    throw RunError(text("dataset '", name, "' of '", path_.string(), "' is empty"));
  const int rank = check(H5Sget_simple_extent_ndims(space.id()), "get the rank of '", name, "'");
  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  check(H5Sget_simple_extent_dims(space.id(), dims.data(), nullptr), "get the shape of '", name, "'");
  return {dims.begin(), dims.end()};
}

std::optional<std::string> File::linked_file(const std::string& object) const {
  constexpr int most_links = 16;  // as many as the library follows
  const SilentErrors silent;
  return linked_file_of(static_cast<hid_t>(file_.id()), object, most_links);
}

std::optional<std::uint64_t> File::stored_bytes(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle layout(check(H5Dget_create_plist(dataset.id()), "get the layout of '", name, "'"), closer<H5Pclose>);
  if (H5Pget_layout(layout.id()) == H5D_VIRTUAL || H5Pget_external_count(layout.id()) > 0) return std::nullopt;
  return H5Dget_storage_size(dataset.id());
}

std::optional<std::uint64_t> File::needed_bytes(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle layout(check(H5Dget_create_plist(dataset.id()), "get the layout of '", name, "'"), closer<H5Pclose>);
  const auto kind = H5Pget_layout(layout.id());
  if (kind == H5D_CHUNKED || (kind == H5D_CONTIGUOUS && H5Dget_storage_size(dataset.id()) == 0)) return std::nullopt;
  const Handle type(check(H5Dget_type(dataset.id()), "get the type of '", name, "'"), closer<H5Tclose>);
  const Handle space = space_of(dataset);
  const auto elements = check(H5Sget_simple_extent_npoints(space.id()), "count the elements of '", name, "'");
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::uint64_t>(elements), H5Tget_size(type.id()), &bytes))
    throw RunError(text("dataset '", name, "' of '", path_.string(), "' is larger than any file"));
  return bytes;
}

std::optional<Chunks> File::chunks(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle layout(check(H5Dget_create_plist(dataset.id()), "get the layout of '", name, "'"), closer<H5Pclose>);
  std::array<hsize_t, 2> shape{};
  if (H5Pget_layout(layout.id()) != H5D_CHUNKED || H5Pget_chunk(layout.id(), 2, shape.data()) != 2) return std::nullopt;
  Chunks chunks{shape[0], shape[1]};
  for (int k = 0; k < H5Pget_nfilters(layout.id()); ++k) {
    unsigned flags = 0;
    unsigned level = 0;
    std::size_t values = 1;
    const auto filter =
        H5Pget_filter2(layout.id(), static_cast<unsigned>(k), &flags, &values, &level, 0, nullptr, nullptr);
    if (filter == H5Z_FILTER_DEFLATE) chunks.gzip = static_cast<int>(level);
    if (filter == H5Z_FILTER_SHUFFLE) chunks.shuffle = true;
  }
  return chunks;
}

std::vector<RowsElsewhere> File::rows_elsewhere(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle layout(check(H5Dget_create_plist(dataset.id()), "get the layout of '", name, "'"), closer<H5Pclose>);
  std::vector<RowsElsewhere> pieces;
  if (H5Pget_layout(layout.id()) != H5D_VIRTUAL) return pieces;
  std::size_t count = 0;
  check(H5Pget_virtual_count(layout.id(), &count), "count the sources of '", name, "'");
  for (std::size_t k = 0; k < count; ++k) {
    const auto length = check(H5Pget_virtual_filename(layout.id(), k, nullptr, 0), "get a source of '", name, "'");
    std::string file(static_cast<std::size_t>(length), '\0');
    check(H5Pget_virtual_filename(layout.id(), k, file.data(), file.size() + 1), "get a source of '", name, "'");
    const Handle rows(check(H5Pget_virtual_vspace(layout.id(), k), "get a source of '", name, "'"), closer<H5Sclose>);
    std::array<hsize_t, H5S_MAX_RANK> first{};
    std::array<hsize_t, H5S_MAX_RANK> last{};
    check(H5Sget_select_bounds(rows.id(), first.data(), last.data()), "get the rows of a source of '", name, "'");
    pieces.push_back({file, first[0], last[0] + 1});
  }
  return pieces;
}

void File::create_group(const std::string& name) {
  const SilentErrors silent;
  const Handle group(check(H5Gcreate2(file_.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                           "create group '", name, "' in '", path_.string(), "'"),
                     closer<H5Gclose>);
}

void File::create_dataset(const std::string& name, Type type, const std::vector<std::uint64_t>& shape) {
  const SilentErrors silent;
  const Handle creation = property_list(H5P_DATASET_CREATE);
  check(H5Pset_layout(creation.id(), H5D_CONTIGUOUS), "choose a contiguous layout");
  check(H5Pset_alloc_time(creation.id(), H5D_ALLOC_TIME_EARLY), "allocate early");
  check(H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER), "turn filling off");
  const Handle space = new_space(shape);
  const Handle dataset(check(H5Dcreate2(file_.id(), name.c_str(), native_type(type), space.id(), H5P_DEFAULT,
                                        creation.id(), H5P_DEFAULT),
                             "create dataset '", name, "' in '", path_.string(), "'"),
                       closer<H5Dclose>);
}

void File::create_chunked_dataset(const std::string& name, Type type, const std::vector<std::uint64_t>& shape,
                                  const Chunks& chunks) {
  const SilentErrors silent;
  const Handle creation = property_list(H5P_DATASET_CREATE);
  const std::array<hsize_t, 2> chunk{chunks.rows, chunks.columns};
  check(H5Pset_chunk(creation.id(), 2, chunk.data()), "choose chunks of ", chunks.rows, " x ", chunks.columns);
  check(H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER), "turn filling off");
  if (chunks.shuffle) check(H5Pset_shuffle(creation.id()), "turn shuffling on");
  if (chunks.gzip > 0) check(H5Pset_deflate(creation.id(), static_cast<unsigned>(chunks.gzip)), "turn compression on");
  const Handle space = new_space(shape);
  const Handle dataset(check(H5Dcreate2(file_.id(), name.c_str(), native_type(type), space.id(), H5P_DEFAULT,
                                        creation.id(), H5P_DEFAULT),
                             "create dataset '", name, "' in '", path_.string(), "'"),
                       closer<H5Dclose>);
}

void File::create_virtual_dataset(const std::string& name, Type type, const std::vector<std::uint64_t>& shape,
                                  const std::vector<RowsElsewhere>& rows) {
  const SilentErrors silent;
  const Handle creation = property_list(H5P_DATASET_CREATE);
  const double missing = std::numeric_limits<double>::quiet_NaN();
  check(H5Pset_fill_value(creation.id(), H5T_NATIVE_DOUBLE, &missing), "set the value of missing rows");
  const Handle space = new_space(shape);
  for (const auto& piece : rows) {
    const Tile tile{piece.begin, 0, piece.end - piece.begin, shape.at(1)};
    const Handle source = select(space, tile);
    check(H5Pset_virtual(creation.id(), space.id(), piece.file.c_str(), name.c_str(), source.id()), "refer to '",
          piece.file.string(), "'");
  }
  check(H5Sselect_all(space.id()), "select all");
  const Handle dataset(check(H5Dcreate2(file_.id(), name.c_str(), native_type(type), space.id(), H5P_DEFAULT,
                                        creation.id(), H5P_DEFAULT),
                             "create dataset '", name, "' in '", path_.string(), "'"),
                       closer<H5Dclose>);
}

void File::create_views(const std::string& dataset, const std::vector<View>& views) {
  const SilentErrors silent;
  const Handle source = open_dataset(file_.id(), dataset, path_);
  const Handle source_space = space_of(source);
  const Handle type(check(H5Dget_type(source.id()), "get the type of '", dataset, "'"), closer<H5Tclose>);
  for (const auto& [name, tile] : views) {
    const Handle space = select(source_space, tile);
    const Handle creation = property_list(H5P_DATASET_CREATE);
    const char* same_file = ".";
    check(H5Pset_virtual(creation.id(), space.id(), same_file, dataset.c_str(), source_space.id()), "refer to '",
          dataset, "'");
    const Handle view(
        check(H5Dcreate2(file_.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, creation.id(), H5P_DEFAULT),
              "create dataset '", name, "' in '", path_.string(), "'"),
        closer<H5Dclose>);
  }
}

std::uint64_t File::offset_in_file(const std::string& name) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const haddr_t offset = H5Dget_offset(dataset.id());
  if (offset == HADDR_UNDEF) throw RunError(text("dataset '", name, "' of '", path_.string(), "' has no space yet"));
  return offset;
}

std::optional<std::uint64_t> File::plain_offset(const std::string& name, Type memory_type) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle layout(check(H5Dget_create_plist(dataset.id()), "get the layout of '", name, "'"), closer<H5Pclose>);
  const Handle type(check(H5Dget_type(dataset.id()), "get the type of '", name, "'"), closer<H5Tclose>);
  const bool plain = H5Pget_layout(layout.id()) == H5D_CONTIGUOUS && H5Pget_external_count(layout.id()) == 0;
  if (!plain || H5Tequal(type.id(), native_type(memory_type)) <= 0) return std::nullopt;
  const haddr_t offset = H5Dget_offset(dataset.id());
  return offset == HADDR_UNDEF ? std::nullopt : std::optional<std::uint64_t>(offset);
}

void File::write(const std::string& name, Type memory_type, const void* values) {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  check(H5Dwrite(dataset.id(), native_type(memory_type), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), "write dataset '",
        name, "' of '", path_.string(), "'");
}

void File::write_strings(const std::string& name, const std::vector<std::string>& values) {
  const SilentErrors silent;
  std::size_t length = 1;
  for (const auto& value : values) length = std::max(length, value.size());
  std::vector<char> characters(length * values.size(), '\0');
  for (std::size_t i = 0; i < values.size(); ++i) values[i].copy(characters.data() + i * length, length);
  const Handle type = fixed_string_type(length, character_set_of(characters));
  const Handle space = new_space({values.size()});
  const Handle dataset(
      check(H5Dcreate2(file_.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
            "create dataset '", name, "' in '", path_.string(), "'"),
      closer<H5Dclose>);
  check(H5Dwrite(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, characters.data()), "write dataset '", name,
        "' of '", path_.string(), "'");
}

void File::read(const std::string& name, Type memory_type, void* values) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  hid_t type = native_type(memory_type);
  Handle own_type;
  if (memory_type == Type::boolean) {  // an enumeration converts to nothing but itself
    own_type = Handle(check(H5Dget_type(dataset.id()), "get the type of '", name, "'"), closer<H5Tclose>);
    type = static_cast<hid_t>(own_type.id());
  }
  check(H5Dread(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), "read dataset '", name, "' of '",
        path_.string(), "'");
}

std::vector<std::string> File::read_strings(const std::string& name) const {
  const SilentErrors silent;
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle type(check(H5Dget_type(dataset.id()), "get the type of '", name, "'"), closer<H5Tclose>);
  if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) != 0) {
    throw RunError(text("dataset '", name, "' of '", path_.string(), "' does not hold strings of fixed length"));
  }
  const std::size_t length = H5Tget_size(type.id());
  const auto count = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space_of(dataset).id()));
  std::string characters(length * count, '\0');
  check(H5Dread(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, characters.data()), "read dataset '", name,
        "' of '", path_.string(), "'");
  std::vector<std::string> values;
  for (std::size_t i = 0; i < count; ++i) {
    const auto padded = characters.substr(i * length, length);
    values.push_back(padded.substr(0, padded.find_last_not_of('\0') + 1));
  }
  return values;
}

void File::read_tile(const std::string& name, Type memory_type, const Tile& tile, void* values) const {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle file_space = space_of(dataset);
  const Handle memory_space = select(file_space, tile);
  check(H5Dread(dataset.id(), native_type(memory_type), memory_space.id(), file_space.id(), H5P_DEFAULT, values),
        "read rows ", tile.row, " to ", tile.row + tile.rows, " of '", name, "' in '", path_.string(), "'");
}

void File::write_tile_collectively(const std::string& name, Type memory_type, const Tile& tile, const void* values) {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle file_space = space_of(dataset);
  const Handle memory_space = select(file_space, tile);
  const Handle transfer = property_list(H5P_DATASET_XFER);
  check(H5Pset_dxpl_mpio(transfer.id(), H5FD_MPIO_COLLECTIVE), "choose collective transfer");
  // Ranks own whole rows, so there is nothing to gather; and where Open MPI 4.1 gathers, a rank whose write fails (a
  // full disk) is told that it succeeded, and bytes have gone astray (open-mpi/ompi#12718).
  check(H5Pset_dxpl_mpio_collective_opt(transfer.id(), H5FD_MPIO_INDIVIDUAL_IO), "let every rank write its own rows");
  check(H5Dwrite(dataset.id(), native_type(memory_type), memory_space.id(), file_space.id(), transfer.id(), values),
        "write rows ", tile.row, " to ", tile.row + tile.rows, " of '", name, "' in '", path_.string(), "'");
}

void File::write_tile_alone(const std::string& name, Type memory_type, const Tile& tile, const void* values) {
  const Handle dataset = open_dataset(file_.id(), name, path_);
  const Handle file_space = space_of(dataset);
  const Handle memory_space = select(file_space, tile);
  check(H5Dwrite(dataset.id(), native_type(memory_type), memory_space.id(), file_space.id(), H5P_DEFAULT, values),
        "write rows ", tile.row, " to ", tile.row + tile.rows, " of '", name, "' in '", path_.string(), "'");
}

void File::set_attribute(const std::string& object, const std::string& name, const std::string& value) {
  const char* characters = value.c_str();
  write_attribute(file_.id(), path_, object, name, string_type(), {}, &characters);
}

void File::set_attribute(const std::string& object, const std::string& name, std::int64_t value) {
  write_attribute(file_.id(), path_, object, name, copy_of_type(H5T_NATIVE_INT64), {}, &value);
}

void File::set_attribute(const std::string& object, const std::string& name, double value) {
  write_attribute(file_.id(), path_, object, name, copy_of_type(H5T_NATIVE_DOUBLE), {}, &value);
}

void File::set_attribute(const std::string& object, const std::string& name, const std::vector<std::string>& values) {
  write_attribute(file_.id(), path_, object, name, string_type(), {values.size()}, pointers(values).data());
}

void File::set_attribute(const std::string& object, const std::string& name, const std::vector<std::int64_t>& values) {
  write_attribute(file_.id(), path_, object, name, copy_of_type(H5T_NATIVE_INT64), {values.size()}, values.data());
}

std::vector<std::string> File::attributes(const std::string& object) const {
  const SilentErrors silent;
  std::vector<std::string> names;
  check(H5Aiterate_by_name(file_.id(), object.c_str(), H5_INDEX_NAME, H5_ITER_INC, nullptr, append_attribute_name,
                           &names, H5P_DEFAULT),
        "list the attributes of '", object, "' in '", path_.string(), "'");
  return names;
}

std::optional<std::string> File::text_attribute(const std::string& object, const std::string& name) const {
  const SilentErrors silent;
  const Handle attribute = open_attribute(file_.id(), object, name, H5T_STRING);
  if (attribute.id() < 0) return std::nullopt;
  const Handle type(check(H5Aget_type(attribute.id()), "get the type of attribute '", name, "'"), closer<H5Tclose>);
  if (H5Tis_variable_str(type.id()) <= 0) return std::nullopt;
  const Handle own = string_type();
  char* characters = nullptr;
  check(H5Aread(attribute.id(), own.id(), static_cast<void*>(&characters)), "read attribute '", name, "' of '",
        path_.string(), "'");
  const std::unique_ptr<char, decltype(&H5free_memory)> owned(characters, H5free_memory);
  return characters == nullptr ? std::string() : std::string(characters);
}

std::optional<std::int64_t> File::integer_attribute(const std::string& object, const std::string& name) const {
  return number_of<std::int64_t>(open_attribute(file_.id(), object, name, H5T_INTEGER), H5T_NATIVE_INT64, name, path_);
}

std::optional<double> File::number_attribute(const std::string& object, const std::string& name) const {
  return number_of<double>(open_attribute(file_.id(), object, name, H5T_FLOAT), H5T_NATIVE_DOUBLE, name, path_);
}

void File::close() {
  const SilentErrors silent;
  // Closing writes what is left to write. A flush before it would sync a parallel file, and where that failed on one
  // rank the others would wait for it in closing.
  check(H5Fclose(file_.release()), "close '", path_.string(), "'");
}

RawFile::RawFile(std::filesystem::path path, Access access) : path_(std::move(path)) {
  const Handle properties = file_access();
  const SilentErrors silent;
  const auto flags = access == Access::read ? H5F_ACC_RDONLY : H5F_ACC_RDWR;
  file_ =
      Handle(check(H5Fopen(path_.c_str(), flags, properties.id()), "open '", path_.string(), "'"), closer<H5Fclose>);
}

std::vector<char> RawFile::dataset(const std::string& name) const {
  const Handle opened = open_dataset(file_.id(), name, path_);
  return values_of(opened, dataset_calls, text("dataset '", name, "' of '", path_.string(), "'")).bytes;
}

std::vector<char> RawFile::attribute(const std::string& object, const std::string& name) const {
  const auto where = text("attribute '", name, "' of '", object, "' in '", path_.string(), "'");
  const auto values = values_of(open_any_attribute(file_.id(), object, name, where), attribute_calls, where);
  if (H5Tis_variable_str(values.type.id()) <= 0) return values.bytes;
  std::vector<char> bytes;
  for (std::size_t at = 0; at < values.bytes.size(); at += sizeof(char*)) {
    const char* string = nullptr;
    std::memcpy(&string, values.bytes.data() + at, sizeof(string));
    if (string != nullptr) bytes.insert(bytes.end(), string, string + std::strlen(string));
    bytes.push_back('\0');
  }
  return bytes;
}

std::optional<std::vector<char>> RawFile::views(const std::string& group) const {
  std::string lines;
  const auto members = [&](const std::string& of) {
    auto names = members_of(file_.id(), of, path_);
    for (const auto& name : names) {
      H5L_info_t link{};
      check(H5Lget_info(file_.id(), text(of, '/', name).c_str(), &link, H5P_DEFAULT), "look at '", name, "'");
      if (link.type != H5L_TYPE_HARD) throw RunError(text("'", of, '/', name, "' is a link"));
    }
    return names;
  };
  for (const auto& row : members(group)) {
    for (const auto& column : members(text(group, '/', row))) {
      const auto view = text(row, '/', column);
      const auto source = text_of_view(file_.id(), text(group, '/', view), path_);
      if (!source) return std::nullopt;
      lines += text(view, ' ', *source, '\n');
    }
  }
  return std::vector<char>(lines.begin(), lines.end());
}

void RawFile::copy_group(const RawFile& from, const std::string& name) {
  const SilentErrors silent;
  if (H5Lexists(file_.id(), name.c_str(), H5P_DEFAULT) > 0) {
    // As if it had another link, so that the library does not look into what may be damaged: its space stays taken.
    const Handle old(check(H5Oopen(file_.id(), name.c_str(), H5P_DEFAULT), "open '", name, "'"), closer<H5Oclose>);
    check(H5Oincr_refcount(old.id()), "keep the space of '", name, "'");
    check(H5Ldelete(file_.id(), name.c_str(), H5P_DEFAULT), "remove '", name, "' of '", path_.string(), "'");
  }
  check(H5Ocopy(from.file_.id(), name.c_str(), file_.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), "copy '", name,
        "' to '", path_.string(), "'");
}

void RawFile::copy_dataset(const RawFile& from, const std::string& name) {
  const auto where = text("dataset '", name, "' of '", path_.string(), "'");
  const auto values = values_of(open_dataset(from.file_.id(), name, from.path_), dataset_calls, where);
  const Handle opened = open_dataset(file_.id(), name, path_);
  const SilentErrors silent;
  if (H5Sextent_equal(space_of(opened).id(), values.space.id()) <= 0) throw RunError(text(where, " has another shape"));
  check(H5Dwrite(opened.id(), values.type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.bytes.data()), "write ", where);
}

void RawFile::copy_attribute(const RawFile& from, const std::string& object, const std::string& name) {
  const auto where = text("attribute '", name, "' of '", object, "' in '", path_.string(), "'");
  const auto values = values_of(open_any_attribute(from.file_.id(), object, name, where), attribute_calls, where);
  const SilentErrors silent;
  if (H5Aexists_by_name(file_.id(), object.c_str(), name.c_str(), H5P_DEFAULT) > 0) {
    check(H5Adelete_by_name(file_.id(), object.c_str(), name.c_str(), H5P_DEFAULT), "replace ", where);
  }
  const Handle made(check(H5Acreate_by_name(file_.id(), object.c_str(), name.c_str(), values.type.id(),
                                            values.space.id(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                          "create ", where),
                    closer<H5Aclose>);
  check(H5Awrite(made.id(), values.type.id(), values.bytes.data()), "write ", where);
}

bool is_hdf5(const std::filesystem::path& path) {
  const SilentErrors silent;
  return H5Fis_hdf5(path.c_str()) > 0;
}

std::string library_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return text(major, '.', minor, '.', release);
}

}  // namespace hessian_mpi::hdf5
