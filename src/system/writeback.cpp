#include "hessian_mpi/system/writeback.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <ctime>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/stopwatch.hpp"

namespace hessian_mpi::system {
namespace {

std::vector<char> changing_bytes(std::size_t count) {
  std::vector<char> bytes(count);
  for (std::size_t k = 0; k < count; ++k) bytes[k] = static_cast<char>(k * k >> 7);
  return bytes;
}

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

EarlyWriteback::EarlyWriteback(const std::filesystem::path& path) : file_(path, O_RDWR) {}

void EarlyWriteback::write(std::uint64_t offset, const std::vector<char>& bytes) {
  file_.write(offset, bytes.data(), bytes.size());
}

void EarlyWriteback::start(std::uint64_t offset, std::uint64_t bytes) {
  finish();
  offset_ = offset;
  bytes_ = bytes;
  // File systems that cannot do this write back when they like, and all have to at the last sync.
  sync_file_range(file_.descriptor(), static_cast<off64_t>(offset), static_cast<off64_t>(bytes), SYNC_FILE_RANGE_WRITE);
}

void EarlyWriteback::finish() {
  if (bytes_ == 0) return;
  const auto offset = static_cast<off64_t>(offset_);
  const auto bytes = static_cast<off64_t>(std::exchange(bytes_, 0));
  constexpr unsigned until_written = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (sync_file_range(file_.descriptor(), offset, bytes, until_written) != 0 &&
      (errno == EIO || errno == ENOSPC || errno == EDQUOT)) {
    throw RunError(text("rows of '", file_.path().string(), "' did not reach the disk: ", reason(errno)));
  }
  if (!keeps_pages_) posix_fadvise(file_.descriptor(), offset, bytes, POSIX_FADV_DONTNEED);
}

void EarlyWriteback::sync() {
  file_.sync_data();
}

WritingCost try_writing(const std::filesystem::path& folder, std::uint64_t bytes, std::uint64_t piece) {
  auto nameless = PosixFile::nameless(folder);
  nameless.take_space(0, bytes);
  EarlyWriteback file(std::move(nameless));
  // As in a run, what was written is not what is written next: neither is in the caches of the core any more.
  std::array<std::vector<char>, 2> numbers{changing_bytes(piece), changing_bytes(piece)};
  const Stopwatch watch;
  const double before = processor_seconds();
  for (std::uint64_t done = 0; done < bytes; done += piece) {
    auto& some = numbers[done / piece % numbers.size()];
    some.resize(std::min(piece, bytes - done));
    file.write(done, some);
    file.start(done, some.size());
  }
  file.finish();
  file.sync();
  const double busy = processor_seconds() - before;
  return {watch.seconds(), busy};
}

}  // namespace hessian_mpi::system
