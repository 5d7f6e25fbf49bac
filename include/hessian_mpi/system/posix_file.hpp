#pragma once
/// Files by the calls of POSIX and Linux, which say what went wrong. Not collective.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace hessian_mpi::system {

/// The operating system's words for an errno: "No space left on device".
std::string reason(int error);

/// An open file, closed on destruction. Reading and writing go on after a signal, and where the system did less than it
/// was told to. Whatever fails throws RunError that names the file.
class PosixFile {
 public:
  /// flags and mode: of open(2); not inherited by other programs.
  PosixFile(std::filesystem::path path, int flags, unsigned mode = 0666);
  /// Nothing where it cannot be opened; errno says why.
  static std::optional<PosixFile> open_if_possible(const std::filesystem::path& path, int flags, unsigned mode = 0666);
  /// Open to be read and written, and gone with its descriptor; the name is that of its folder.
  static PosixFile nameless(const std::filesystem::path& folder);
  ~PosixFile();
  PosixFile(PosixFile&& other) noexcept;
  PosixFile& operator=(PosixFile&&) = delete;
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }

  /// Whether it is what lies under that name now. One that another machine has removed is not.
  bool is_at(const std::filesystem::path& path) const;
  std::uint64_t size() const;
  void resize(std::uint64_t bytes) const;
  /// Reads as many bytes as there are, at most so many, and returns their number.
  std::uint64_t read_some(std::uint64_t offset, void* to, std::uint64_t bytes) const;
  /// Reads all of them; it is an error where the file ends before.
  void read(std::uint64_t offset, void* to, std::uint64_t bytes) const;
  void write(std::uint64_t offset, const void* from, std::uint64_t bytes) const;
  /// Takes space from the disk, where the file system can do that in advance. Returns 0, or the errno of a disk that
  /// has too little. grow: whether the file becomes as long as that.
  int take_space(std::uint64_t offset, std::uint64_t bytes, bool grow = true) const;
  /// Returns when what has been written is on the disk; sync() with the times of the file as well.
  void sync_data() const;
  void sync() const;

 private:
  PosixFile(std::filesystem::path path, std::nullptr_t, int descriptor) noexcept;
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace hessian_mpi::system
