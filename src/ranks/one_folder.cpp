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

}  // namespace

void expect_one_folder(const std::filesystem::path& path, const Communicator& communicator) {
  const auto target = communicator.together([&] { return system::target_of(path); });
  const auto folder = system::folder_of(target);
  const auto here = std::filesystem::absolute(target).lexically_normal().parent_path().string();
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

}  // namespace hessian_mpi::ranks
