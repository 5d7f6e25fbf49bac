#pragma once
/// A file that gets its name when it is whole: neither a failure nor a race touches one that exists. Not collective;
/// Linux.

#include <filesystem>

namespace hessian_mpi::system {

/// The folder that a file lies in.
std::filesystem::path folder_of(const std::filesystem::path& path);

/// Throws InputError: the file exists, and --overwrite was not given.
[[noreturn]] void throw_exists(const std::filesystem::path& path);

/// Waits until the file's bytes are on the disk. Throws RunError.
void bring_to_disk(const std::filesystem::path& path);

/// The name that a new file has for the time being. What lies under it on destruction is removed, unless it is kept.
class UnfinishedFile {
 public:
  /// A name beside the file that it is to become, or that a symlink leads to. What processes of this machine that are
  /// gone have left in its folder is removed.
  explicit UnfinishedFile(const std::filesystem::path& path);
  /// The name that it is to have in the end, for files that nobody takes for whole.
  struct UnderItsName {};
  UnfinishedFile(std::filesystem::path path, UnderItsName name);
  ~UnfinishedFile();
  UnfinishedFile(const UnfinishedFile&) = delete;
  UnfinishedFile& operator=(const UnfinishedFile&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void keep() { kept_ = true; }

  /// Gives the file its real name, that of the constructor; symlinks to it stay. Throws InputError where it exists,
  /// unless it is a regular file and to be replaced.
  void publish(const std::filesystem::path& name, bool replace) const;

 private:
  std::filesystem::path path_;
  bool kept_ = false;
};

}  // namespace hessian_mpi::system
