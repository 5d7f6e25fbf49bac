#include "hessian_mpi/system/unfinished_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::system {

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void throw_exists(const std::filesystem::path& path) {
  throw InputError(text("'", path.string(), "' exists already; name another file, or replace it with --overwrite"));
}

void bring_to_disk(const std::filesystem::path& path) {
  PosixFile(path, O_RDWR).sync_data();
}

UnfinishedFile::UnfinishedFile(const std::filesystem::path& path) : path_(target_of(path)) {
  path_.replace_filename(text('.', path_.filename().string(), ".new-", ::getpid()));
}

UnfinishedFile::UnfinishedFile(std::filesystem::path path, UnderItsName) : path_(std::move(path)) {}

UnfinishedFile::~UnfinishedFile() {
  if (!kept_) ::unlink(path_.c_str());
}

void UnfinishedFile::publish(const std::filesystem::path& name, bool replace) const {
  const auto target = target_of(name);
  expect_regular(target);
  const unsigned flags = replace ? 0 : RENAME_NOREPLACE;
  if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), flags) == 0) return;
  if (errno == EEXIST) throw_exists(name);
  // File systems without the flag: look first, and accept that another program may come between.
  if (errno == EINVAL && !std::filesystem::exists(target) && ::rename(path_.c_str(), target.c_str()) == 0) return;
  throw InputError(text("'", name.string(), "' cannot be created: ", reason(errno)));
}

}  // namespace hessian_mpi::system
