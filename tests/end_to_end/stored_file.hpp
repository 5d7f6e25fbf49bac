#pragma once
/// Reads HDF5 files through the library's C interface alone: what the program wrote is not read by the program's own
/// code.

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace end_to_end {

/// A file open for reading. Every function throws std::runtime_error naming what could not be read.
class StoredFile {
 public:
  explicit StoredFile(const std::filesystem::path& path);
  ~StoredFile();
  StoredFile(const StoredFile&) = delete;
  StoredFile& operator=(const StoredFile&) = delete;

  /// Datasets, row-major, converted to the type asked for.
  std::vector<std::uint64_t> shape(const std::string& dataset) const;
  std::vector<double> numbers(const std::string& dataset) const;
  std::vector<std::int64_t> integers(const std::string& dataset) const;
  std::vector<std::uint64_t> checksums(const std::string& dataset) const;
  std::vector<std::string> strings(const std::string& dataset) const;

  /// "float32", "int64", "uint64", "string" and the like: the type on disk.
  std::string type(const std::string& dataset) const;
  bool is_contiguous(const std::string& dataset) const;
  bool is_compressed_or_checked(const std::string& dataset) const;
  /// Where the bytes of a contiguous dataset begin in the file, and these bytes, read without HDF5.
  std::uint64_t offset(const std::string& dataset) const;
  std::string bytes(const std::string& dataset) const;

  /// Attributes of an object; "/" is the root group.
  bool has_attribute(const std::string& object, const std::string& name) const;
  std::string attribute_type(const std::string& object, const std::string& name) const;
  std::string attribute_text(const std::string& object, const std::string& name) const;
  double attribute_number(const std::string& object, const std::string& name) const;
  std::int64_t attribute_integer(const std::string& object, const std::string& name) const;
  std::vector<std::int64_t> attribute_integers(const std::string& object, const std::string& name) const;
  std::vector<std::string> attribute_strings(const std::string& object, const std::string& name) const;

 private:
  std::filesystem::path path_;
  hid_t file_ = H5I_INVALID_HID;
};

}  // namespace end_to_end
