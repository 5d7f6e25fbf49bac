#include "hessian_mpi/system/used_files.hpp"

#include <sys/stat.h>

#include <cerrno>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::system {
namespace {

using Status = struct stat;

[[noreturn]] void throw_unknown(const std::filesystem::path& path, int error) {
  throw InputError(text("'", path.string(), "' cannot be looked at: ", reason(error)));
}

// Of what a path leads to, or nothing where there is nothing.
std::optional<Status> status_of(const std::filesystem::path& path) {
  Status status{};
  if (::stat(path.c_str(), &status) == 0) return status;
  if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
  throw_unknown(path, errno);
}

const char* kind_of(const Status& status) {
  switch (status.st_mode & S_IFMT) {
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    default:
      return "a device";
  }
}

// Of a name of the file's folder. Files that lie beside it for a while have longer ones (UnfinishedFile, redo logs).
void expect_room_for_names(const std::filesystem::path& path) {
  constexpr std::size_t most = 255 - 25;
  const auto bytes = path.filename().string().size();
  if (bytes <= most) return;
  throw InputError(text("the name of the output '", path.string(), "' has ", bytes, " bytes: ", most, " are the most"));
}

}  // namespace

std::filesystem::path target_of(const std::filesystem::path& path) {
  constexpr int most_links = 40;  // as the kernel has it
  auto target = path;
  for (int links = 0; links < most_links; ++links) {
    std::error_code is_no_link;
    const auto next = std::filesystem::read_symlink(target, is_no_link);
    if (is_no_link) return target;
    target = next.is_absolute() ? next : folder_of(target) / next;
  }
  throw_unknown(path, ELOOP);
}

void expect_regular(const std::filesystem::path& path) {
  const auto status = status_of(path);
  if (!status || S_ISREG(status->st_mode)) return;
  throw InputError(text("'", path.string(), "' is ", kind_of(*status), ": name a regular file"));
}

void expect_inputs(const UsedFiles& files) {
  for (const auto& input : files.inputs) expect_regular(input);
}

void expect_output(const UsedFiles& files) {
  if (!files.output) return;
  const auto& output = *files.output;
  expect_room_for_names(target_of(output));
  expect_regular(output);
  const auto there = status_of(output);
  if (!there) return;
  for (const auto& input : files.inputs) {
    const auto other = status_of(input);
    if (!other || other->st_dev != there->st_dev || other->st_ino != there->st_ino) continue;
    throw InputError(
        text("the output '", output.string(), "' is a file that is read, '", input.string(), "': name another output"));
  }
}

}  // namespace hessian_mpi::system
