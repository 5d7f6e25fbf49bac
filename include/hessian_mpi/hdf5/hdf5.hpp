#pragma once
/// The HDF5 library behind a few checked functions: the one place that knows its C interface. Every call throws
/// RunError with what was attempted, on which object of which file. Handles are owned, moved, and closed without
/// throwing.

#include <mpi.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::hdf5 {

/// Element types that this project reads or writes.
enum class Type { int8, uint8, int16, int32, int64, uint64, float32, float64, boolean, string, other };

constexpr Type type_of(Precision precision) {
  return precision == Precision::float32 ? Type::float32 : Type::float64;
}

/// A handle (hid_t) of the library, closed on destruction.
class Handle {
 public:
  using Close = int (*)(std::int64_t);
  Handle() = default;
  Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&& other) noexcept;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle();
  std::int64_t id() const { return id_; }
  /// Gives the handle up without closing it.
  std::int64_t release();

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

/// A rectangle of a two-dimensional dataset; of a one-dimensional one its rows, in one column.
struct Tile {
  std::uint64_t row = 0;
  std::uint64_t column = 0;
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;
};

/// Rows of a dataset that lie in a dataset of another file, from its first row on; what this project writes has them
/// under the same name.
struct RowsElsewhere {
  std::filesystem::path file;  ///< relative to the folder of the file that refers to it
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// A dataset that is a tile of another one.
struct View {
  std::string name;
  Tile tile;
};

/// How a dataset in chunks is stored: each a rectangle on its own, compressed.
struct Chunks {
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;
  int gzip = 0;          ///< level of deflate, 1 to 9; 0: not compressed
  bool shuffle = false;  ///< first bytes of all numbers first, then second ones: compresses better
};

/// An open file. Not collective unless opened with a communicator.
class File {
 public:
  /// Creates the file, which must not exist; format of HDF5 1.8: read by every library since 2008, attributes beyond
  /// 64 KiB, and no 'being written' flag that a killed job would leave set and readers heed. Datasets of 1 MiB and more
  /// start at multiples of 1 MiB, where parallel file systems have their stripes.
  static File create(const std::filesystem::path& path);
  static File open_to_read(const std::filesystem::path& path);
  /// The same for a file from elsewhere, which may be damaged or hostile: no other handle of this process may have it
  /// open.
  static File open_untrusted(const std::filesystem::path& path);
  static File open_to_write(const std::filesystem::path& path);
  /// Collective over communicator: opens an existing file for parallel writing through MPI-IO.
  static File open_parallel(const std::filesystem::path& path, MPI_Comm communicator);

  const std::filesystem::path& path() const { return path_; }

  bool has(const std::string& object) const;
  bool is_group(const std::string& object) const;
  /// Names of the members of a group, in the order of their names.
  std::vector<std::string> members(const std::string& group) const;
  Type type(const std::string& dataset) const;
  std::vector<std::uint64_t> shape(const std::string& dataset) const;

  /// The other file that an external link on the way to the object leads to; nothing where the way stays in this file.
  /// Opens nothing.
  std::optional<std::string> linked_file(const std::string& object) const;

  /// Bytes that the file has for the elements, compressed; nothing where they lie in other files.
  std::optional<std::uint64_t> stored_bytes(const std::string& dataset) const;

  /// Bytes that the file must have for the elements: all of them where they lie one after the other, and nothing where
  /// they are in chunks, which may be compressed, or were never written. Where a damaged file has less, the library
  /// reads what lies behind.
  std::optional<std::uint64_t> needed_bytes(const std::string& dataset) const;

  /// The chunks of a two-dimensional dataset; nothing where it is not stored in chunks.
  std::optional<Chunks> chunks(const std::string& dataset) const;

  /// Where the rows of a virtual dataset lie, as it says; nothing of another dataset.
  std::vector<RowsElsewhere> rows_elsewhere(const std::string& dataset) const;

  void create_group(const std::string& name);
  /// A contiguous dataset whose space is allocated now and never filled.
  void create_dataset(const std::string& name, Type type, const std::vector<std::uint64_t>& shape);
  /// A two-dimensional dataset in chunks, which take space when they are written.
  void create_chunked_dataset(const std::string& name, Type type, const std::vector<std::uint64_t>& shape,
                              const Chunks& chunks);
  /// A two-dimensional floating-point dataset whose rows lie in other files, each of which holds the dataset under the
  /// same name. Where one of them is missing its rows read as NaN. Needs HDF5 1.10 to be read.
  void create_virtual_dataset(const std::string& name, Type type, const std::vector<std::uint64_t>& shape,
                              const std::vector<RowsElsewhere>& rows);
  /// Two-dimensional datasets that are tiles of another one in the same file: they hold no numbers of their own. Needs
  /// HDF5 1.10 to be read.
  void create_views(const std::string& dataset, const std::vector<View>& views);
  /// Byte offset of a contiguous dataset in the file.
  std::uint64_t offset_in_file(const std::string& dataset) const;
  /// The same where the elements lie one after the other, as memory holds them: plain reads find them. Nothing where
  /// they are in chunks or in other files, of another type or byte order, or where the file has no space for them yet.
  std::optional<std::uint64_t> plain_offset(const std::string& dataset, Type memory_type) const;

  void write(const std::string& dataset, Type memory_type, const void* values);
  void write_strings(const std::string& dataset, const std::vector<std::string>& values);
  void read(const std::string& dataset, Type memory_type, void* values) const;
  /// Strings as write_strings() has written them.
  std::vector<std::string> read_strings(const std::string& dataset) const;
  void read_tile(const std::string& dataset, Type memory_type, const Tile& tile, void* values) const;
  /// Collective over the file's communicator: each rank writes its own tile, or nothing where the tile has no rows.
  /// At most 1 GiB a call: larger ones fail in some versions of Open MPI.
  void write_tile_collectively(const std::string& dataset, Type memory_type, const Tile& tile, const void* values);
  /// Not collective, though the file was opened by several ranks: writes a tile of a dataset that has its space.
  void write_tile_alone(const std::string& dataset, Type memory_type, const Tile& tile, const void* values);

  /// Creates the attribute, or replaces the value of an existing one. object: a path, "/" for the root group.
  void set_attribute(const std::string& object, const std::string& name, const std::string& value);
  void set_attribute(const std::string& object, const std::string& name, std::int64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name, const std::vector<std::string>& values);
  void set_attribute(const std::string& object, const std::string& name, const std::vector<std::int64_t>& values);

  /// Names of an object's attributes, in their order.
  std::vector<std::string> attributes(const std::string& object) const;
  /// The value of an attribute of that kind; nothing where there is none of that name, or one of another kind.
  std::optional<std::string> text_attribute(const std::string& object, const std::string& name) const;
  std::optional<std::int64_t> integer_attribute(const std::string& object, const std::string& name) const;
  std::optional<double> number_attribute(const std::string& object, const std::string& name) const;

  /// Writes what is left and closes, throwing where that fails; destruction closes silently. Collective where open is.
  void close();
  /// Leaves the file open for good: after a failure on one rank, closing it together would wait for ever.
  void abandon() { file_.release(); }

 private:
  File(std::filesystem::path path, Handle file) : path_(std::move(path)), file_(std::move(file)) {}
  std::filesystem::path path_;
  Handle file_;
};

/// True if the file begins like an HDF5 file (at any of the offsets that HDF5 allows).
bool is_hdf5(const std::filesystem::path& path);

/// Version of the HDF5 library in use, such as "1.10.8".
std::string library_version();

}  // namespace hessian_mpi::hdf5
