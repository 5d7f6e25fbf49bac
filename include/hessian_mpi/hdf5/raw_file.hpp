#pragma once
/// Datasets and attributes as bytes, whatever their types: to take sums of them, and to copy them from file to file.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/hdf5/hdf5.hpp"

namespace hessian_mpi::hdf5 {

/// An open file. Where there is no such object, or it cannot be read, RunError says so.
class RawFile {
 public:
  enum class Access { read, write };
  explicit RawFile(std::filesystem::path path, Access access = Access::read);

  /// The elements of a dataset in the type of the file, one after the other.
  std::vector<char> dataset(const std::string& name) const;
  /// The same of an attribute; strings of variable length with a zero behind each.
  std::vector<char> attribute(const std::string& object, const std::string& name) const;

  /// What the views in the groups of a group say, as text, each a line, in the order of names: "GROUP/VIEW FILE DATASET
  /// row column rows columns". Nothing where one has numbers of its own, as h5repack makes them. Follows no links, and
  /// opens no file that a view refers to.
  std::optional<std::vector<char>> views(const std::string& group) const;

  /// Writes what the other file has under that name over what is here, a dataset of the same type and shape.
  void copy_dataset(const RawFile& from, const std::string& name);
  /// The same for an attribute, which need not be here yet.
  void copy_attribute(const RawFile& from, const std::string& object, const std::string& name);
  /// The same for a group, in the place of what is here, if anything.
  void copy_group(const RawFile& from, const std::string& name);

 private:
  std::filesystem::path path_;
  Handle file_;
};

}  // namespace hessian_mpi::hdf5
