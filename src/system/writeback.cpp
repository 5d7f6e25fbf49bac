#include "hessian_mpi/system/writeback.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <system_error>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/stopwatch.hpp"

namespace hessian_mpi::system {
namespace {

// A file that is gone with its descriptor.
Descriptor nameless_file(const std::filesystem::path& folder) {
  const int id = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (id >= 0) return Descriptor(id);
  // File systems without such files: its name is gone before anything is in it.
  std::string name = (folder / ".hessian_mpi_trial_XXXXXX").string();
  Descriptor named(mkostemp(name.data(), O_CLOEXEC));
  if (named.id() < 0) throw RunError(text("cannot make a file in '", folder.string(), "': ", reason(errno)));
  unlink(name.c_str());
  return named;
}

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

std::string reason(int error) {
  return std::generic_category().message(error);
}

Descriptor::Descriptor(const std::filesystem::path& path, Access access)
    : id_(::open(path.c_str(), (access == Access::read ? O_RDONLY : O_RDWR) | O_CLOEXEC)) {}

Descriptor::Descriptor(Descriptor&& other) noexcept : id_(std::exchange(other.id_, -1)) {}

Descriptor::~Descriptor() {
  if (id_ >= 0) ::close(id_);
}

EarlyWriteback::EarlyWriteback(const std::filesystem::path& path) : EarlyWriteback(path, Descriptor(path)) {}

EarlyWriteback::EarlyWriteback(std::filesystem::path path, Descriptor descriptor)
    : path_(std::move(path)), descriptor_(std::move(descriptor)) {
  if (descriptor_.id() < 0) throw RunError(text("'", path_.string(), "' could not be opened: ", reason(errno)));
}

void EarlyWriteback::write(std::uint64_t offset, const std::vector<char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const auto count =
        pwrite(descriptor_.id(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw RunError(text("rows could not be written to '", path_.string(), "': ", reason(errno)));
    done += static_cast<std::size_t>(count);
  }
}

void EarlyWriteback::start(std::uint64_t offset, std::uint64_t bytes) {
  finish();
  offset_ = offset;
  bytes_ = bytes;
  // File systems that cannot do this write back when they like, and all have to at the last sync.
  sync_file_range(descriptor_.id(), static_cast<off64_t>(offset), static_cast<off64_t>(bytes), SYNC_FILE_RANGE_WRITE);
}

void EarlyWriteback::finish() {
  if (bytes_ == 0) return;
  const auto offset = static_cast<off64_t>(offset_);
  const auto bytes = static_cast<off64_t>(std::exchange(bytes_, 0));
  constexpr unsigned until_written = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (sync_file_range(descriptor_.id(), offset, bytes, until_written) != 0 &&
      (errno == EIO || errno == ENOSPC || errno == EDQUOT)) {
    throw RunError(text("rows of '", path_.string(), "' did not reach the disk: ", reason(errno)));
  }
  posix_fadvise(descriptor_.id(), offset, bytes, POSIX_FADV_DONTNEED);
}

void EarlyWriteback::sync() {
  if (fdatasync(descriptor_.id()) == 0) return;
  throw RunError(text("rows of '", path_.string(), "' did not reach the disk: ", reason(errno)));
}

WritingCost try_writing(const std::filesystem::path& folder, std::uint64_t bytes, std::uint64_t piece) {
  auto nameless = nameless_file(folder);
  posix_fallocate(nameless.id(), 0, static_cast<off_t>(bytes));  // where the file system cannot, the same without
  EarlyWriteback file(folder, std::move(nameless));
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
