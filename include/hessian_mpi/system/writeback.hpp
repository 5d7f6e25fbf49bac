#pragma once
/// Bytes of an existing file on their way to the disk. Not collective; Linux.

#include <cstdint>
#include <filesystem>
#include <utility>
#include <vector>

#include "hessian_mpi/system/posix_file.hpp"

namespace hessian_mpi::system {

/// Brings bytes of a file to the disk while the next ones are made, and then gives their pages back. The page cache
/// stays small and warm, instead of taking as much memory as the file is long, and the last sync has little left to do.
/// Not collective.
class EarlyWriteback {
 public:
  /// Throws RunError where the file cannot be opened.
  explicit EarlyWriteback(const std::filesystem::path& path);
  /// file: open for writing.
  explicit EarlyWriteback(PosixFile file) : file_(std::move(file)) {}

  /// Writes bytes itself, for files that are not open through MPI-IO. Throws RunError.
  void write(std::uint64_t offset, const std::vector<char>& bytes);

  /// Starts to write back bytes that were just written, and waits for those of the call before. Throws RunError where
  /// these did not reach the disk.
  void start(std::uint64_t offset, std::uint64_t bytes);
  /// Waits for the last bytes; throws as start() does.
  void finish();
  /// What is written from now on is to be read soon: its pages stay in the cache, as long as the system likes.
  void keep_pages() { keeps_pages_ = true; }
  /// Returns when all that any process of this node has written is on the disk. Throws RunError where it isn't.
  void sync();

 private:
  PosixFile file_;
  std::uint64_t offset_ = 0;
  std::uint64_t bytes_ = 0;
  bool keeps_pages_ = false;
};

/// What writing takes: until all is on the disk, and of the processor that writes, which has no time to compute then.
struct WritingCost {
  double seconds = 0;
  double processor_seconds = 0;
};

/// Writes so many bytes to the disk as a run writes rows, `piece` of them at a time, into a file of the folder that has
/// no name and whose space is taken before; it is gone afterwards. Throws RunError.
WritingCost try_writing(const std::filesystem::path& folder, std::uint64_t bytes, std::uint64_t piece);

}  // namespace hessian_mpi::system
