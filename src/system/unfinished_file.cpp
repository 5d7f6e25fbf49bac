#include "hessian_mpi/system/unfinished_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <iomanip>
#include <limits>
#include <sstream>
#include <utility>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::system {
namespace {

// ".new-", and the machine and its space of process numbers, which tell who may ask whether a process lives.
std::string suffix_of_processes_here() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  struct stat space {};
  ::stat("/proc/self/ns/pid", &space);
  const auto here = text(host.data(), ' ', space.st_ino);
  std::ostringstream suffix;
  suffix << ".new-" << std::hex << std::setfill('0') << std::setw(8)
         << (xxh3(here.data(), here.size()) & std::numeric_limits<std::uint32_t>::max()) << '-';
  return suffix.str();
}

// Whether it is the name of a file that a process was making which is gone now.
bool is_left_over(const std::string& name, const std::string& suffix) {
  const auto at = name.rfind(suffix);
  if (name.front() != '.' || at == std::string::npos) return false;
  pid_t process = 0;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(name.data() + at + suffix.size(), last, process);
  return error == std::errc() && end == last && process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
}

void remove_leftovers(const std::filesystem::path& folder) {
  const auto suffix = suffix_of_processes_here();
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(folder, ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    if (is_left_over(entry->path().filename().string(), suffix)) ::unlink(entry->path().c_str());
  }
}

// A new name is on the disk when its folder is. Not every file system can say so.
void bring_name_to_disk(const std::filesystem::path& path) {
  const int folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);
  ::close(folder);
}

}  // namespace

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
  path_.replace_filename(text('.', path_.filename().string(), suffix_of_processes_here(), ::getpid()));
  remove_leftovers(folder_of(path_));
}

UnfinishedFile::UnfinishedFile(std::filesystem::path path, UnderItsName) : path_(std::move(path)) {}

UnfinishedFile::~UnfinishedFile() {
  if (!kept_) ::unlink(path_.c_str());
}

void UnfinishedFile::publish(const std::filesystem::path& name, bool replace) const {
  const auto target = target_of(name);
  expect_regular(target);
  const unsigned flags = replace ? 0 : RENAME_NOREPLACE;
  bool renamed = renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), flags) == 0;
  if (!renamed && errno == EEXIST) throw_exists(name);
  // File systems without the flag: look first, and accept that another program may come between.
  if (!renamed && errno == EINVAL && !std::filesystem::exists(target)) {
    renamed = ::rename(path_.c_str(), target.c_str()) == 0;
  }
  if (renamed) return bring_name_to_disk(target);
  throw InputError(text("'", name.string(), "' cannot be created: ", reason(errno)));
}

}  // namespace hessian_mpi::system
