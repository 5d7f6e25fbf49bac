#include "hessian_mpi/ranks/one_folder.hpp"

#include <fcntl.h>

#include <fstream>
#include <optional>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/random_id.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::ranks {
namespace {

std::string first_line_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::filesystem::path folder_in_full(const std::filesystem::path& path) {
  return std::filesystem::absolute(path).lexically_normal().parent_path();
}

}  // namespace

void expect_one_folder(const std::filesystem::path& path, const Communicator& communicator) {
  const auto target = communicator.together([&] { return system::target_of(path); });
  const auto folder = system::folder_of(target);
  const auto here = folder_in_full(target).string();
  std::optional<system::UnfinishedFile> probe;
  std::string id;
  communicator.on_root([&] {
    id = system::random_id();
    probe.emplace(path);
    const system::PosixFile file(probe->path(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    file.write(0, id.data(), id.size());
  });
  id = communicator.from_root(id);
  const auto name = communicator.from_root(probe ? probe->path().filename().string() : "");
  const auto at_root = communicator.from_root(here);
  const auto host = communicator.from_root(communicator.host());
  communicator.together([&] {
    if (first_line_of(folder / name) == id) return;
    throw InputError(text("'", path.string(), "' lies in the folder '", here, "' here, which is not the folder '",
                          at_root, "' that rank 0 on ", host, " writes to: start all ranks in one folder, or name the ",
                          "output by an absolute path, on a file system that all hosts share"));
  });
}

void expect_same_files(const std::vector<SeenFile>& files, const Communicator& communicator) {
  const auto host = communicator.from_root(communicator.host());
  const auto count = static_cast<std::size_t>(communicator.max(static_cast<std::int64_t>(files.size())));
  std::string wrong;
  for (std::size_t k = 0; k < count; ++k) {
    const auto& [path, content] = k < files.size() ? files[k] : SeenFile{".", ""};
    const auto folder = folder_in_full(path).string();
    const auto content_at_root = communicator.from_root(content);
    const auto folder_at_root = communicator.from_root(folder);
    if (content == content_at_root || !wrong.empty()) continue;
    wrong = text("'", path.string(), "', in the folder '", folder, "' here, is not the file that rank 0 on ", host,
                 " reads, in the folder '", folder_at_root, "': start all ranks in one folder, or name files by ",
                 "absolute paths, on a file system that all hosts share");
  }
  communicator.together([&] {
    if (!wrong.empty()) throw InputError(wrong);
  });
}

}  // namespace hessian_mpi::ranks
