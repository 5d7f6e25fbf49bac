#include "hessian_mpi/writeback.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "hessian_mpi/error.hpp"

namespace hessian_mpi {

std::string reason(int error) {
  return std::generic_category().message(error);
}

Descriptor::Descriptor(const std::filesystem::path& path, Access access)
    : id_(::open(path.c_str(), (access == Access::read ? O_RDONLY : O_RDWR) | O_CLOEXEC)) {}

Descriptor::Descriptor(Descriptor&& other) noexcept : id_(std::exchange(other.id_, -1)) {}

Descriptor::~Descriptor() {
  if (id_ >= 0) ::close(id_);
}

EarlyWriteback::EarlyWriteback(const std::filesystem::path& path) : path_(path), descriptor_(path) {
  if (descriptor_.id() < 0) throw RunError(text("'", path.string(), "' could not be opened: ", reason(errno)));
}

void EarlyWriteback::write(std::uint64_t offset, const std::vector<char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const auto count =
        pwrite(descriptor_.id(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count <= 0) throw RunError(text("rows could not be written to '", path_.string(), "': ", reason(errno)));
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

}  // namespace hessian_mpi
