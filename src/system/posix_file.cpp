#include "hessian_mpi/system/posix_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::system {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what, const std::string& why) {
  throw RunError(text("'", path.string(), "' ", what, ": ", why));
}

// Hands call(done) what is left until all bytes are done; returns how many were, fewer where it says that there are
// none.
template <class Call>
std::uint64_t done_by(std::uint64_t bytes, const Call& call, const std::filesystem::path& path, const char* what) {
  std::uint64_t done = 0;
  while (done < bytes) {
    const ssize_t count = call(done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path, what, reason(errno));
    if (count == 0) break;
    done += static_cast<std::uint64_t>(count);
  }
  return done;
}

}  // namespace

std::string reason(int error) {
  return std::generic_category().message(error);
}

PosixFile::PosixFile(std::filesystem::path path, int flags, unsigned mode)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), flags | O_CLOEXEC, mode)) {
  if (descriptor_ < 0) fail(path_, "could not be opened", reason(errno));
}

PosixFile::PosixFile(std::filesystem::path path, std::nullptr_t, int descriptor) noexcept
    : path_(std::move(path)), descriptor_(descriptor) {}

std::optional<PosixFile> PosixFile::open_if_possible(const std::filesystem::path& path, int flags, unsigned mode) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (descriptor < 0) return std::nullopt;
  return PosixFile(path, nullptr, descriptor);
}

PosixFile PosixFile::nameless(const std::filesystem::path& folder) {
  int descriptor = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (descriptor < 0) {  // file systems without such files: its name is gone before anything is in it
    std::string name = (folder / ".hessian_mpi_trial_XXXXXX").string();
    descriptor = ::mkostemp(name.data(), O_CLOEXEC);
    if (descriptor < 0) throw RunError(text("cannot make a file in '", folder.string(), "': ", reason(errno)));
    ::unlink(name.c_str());
  }
  return {folder, nullptr, descriptor};
}

PosixFile::PosixFile(PosixFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

PosixFile::~PosixFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t PosixFile::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail(path_, "could not be looked at", reason(errno));
  return static_cast<std::uint64_t>(status.st_size);
}

bool PosixFile::is_at(const std::filesystem::path& path) const {
  struct stat own {};
  struct stat there {};
  if (::fstat(descriptor_, &own) != 0) {
    if (errno == ESTALE) return false;
    fail(path_, "could not be looked at", reason(errno));
  }
  return ::stat(path.c_str(), &there) == 0 && own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

void PosixFile::resize(std::uint64_t bytes) const {
  if (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) fail(path_, "could not be resized", reason(errno));
}

std::uint64_t PosixFile::read_some(std::uint64_t offset, void* to, std::uint64_t bytes) const {
  const auto call = [&](std::uint64_t done) {
    return ::pread(descriptor_, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done));
  };
  return done_by(bytes, call, path_, "could not be read");
}

void PosixFile::read(std::uint64_t offset, void* to, std::uint64_t bytes) const {
  const auto done = read_some(offset, to, bytes);
  if (done < bytes) fail(path_, text("could not be read at byte ", offset + done), "it ends there");
}

void PosixFile::write(std::uint64_t offset, const void* from, std::uint64_t bytes) const {
  const auto call = [&](std::uint64_t done) {
    return ::pwrite(descriptor_, static_cast<const char*>(from) + done, bytes - done,
                    static_cast<off_t>(offset + done));
  };
  const auto done = done_by(bytes, call, path_, "could not be written to");
  if (done < bytes) fail(path_, "could not be written to", reason(ENOSPC));
}

int PosixFile::take_space(std::uint64_t offset, std::uint64_t bytes, bool grow) const {
  int result = 0;
  do {
    const int mode = grow ? 0 : FALLOC_FL_KEEP_SIZE;
    result = ::fallocate(descriptor_, mode, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0 || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return 0;
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) return errno;
  fail(path_, "could not be extended", reason(errno));
}

void PosixFile::sync_data() const {
  if (::fdatasync(descriptor_) != 0) fail(path_, "did not reach the disk", reason(errno));
}

void PosixFile::sync() const {
  if (::fsync(descriptor_) != 0) fail(path_, "did not reach the disk", reason(errno));
}

}  // namespace hessian_mpi::system
