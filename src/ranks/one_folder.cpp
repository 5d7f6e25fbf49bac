#include "hessian_mpi/ranks/one_folder.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <optional>

#include "hessian_mpi/base/checksum.hpp"
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

// What a file looks like from here: ranks of one node to which it looks the same see one file.
using Look = std::array<std::uint64_t, 4>;

Look look_at(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return {};
  return {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
          static_cast<std::uint64_t>(status.st_mtim.tv_sec) * 1'000'000'000 +
              static_cast<std::uint64_t>(status.st_mtim.tv_nsec)};
}

// A SHA-256 in hexadecimal, as ranks hand it on.
using Sum = std::array<std::uint64_t, 8>;

Sum sum_if_readable(const std::filesystem::path& path) {
  Sum sum{};
  try {
    const auto text = sha256_of_file(path);
    std::memcpy(sum.data(), text.data(), std::min(text.size(), sizeof sum));
  } catch (const InputError&) {
    // What is wrong with the file is told where it is read for its content.
  }
  return sum;
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

void expect_same_contents(std::vector<std::filesystem::path> files, const Communicator& communicator) {
  if (communicator.size() == 1) return;
  files.resize(static_cast<std::size_t>(communicator.max(static_cast<std::int64_t>(files.size()))), ".");
  std::vector<std::uint64_t> own;
  for (const auto& file : files) {
    const auto look = look_at(file);
    own.insert(own.end(), look.begin(), look.end());
  }
  const auto looks = communicator.join_on_node(own);
  // The first rank of the node to which file k looks as it does from here.
  const auto reader_of = [&](std::size_t k) {
    const auto at = [&](const std::vector<std::uint64_t>& all, std::size_t rank) {
      return all.begin() + static_cast<std::ptrdiff_t>(rank * own.size() + k * Look{}.size());
    };
    std::size_t rank = 0;
    while (!std::equal(at(own, 0), at(own, 0) + Look{}.size(), at(looks, rank))) ++rank;
    return rank;
  };
  std::vector<std::uint64_t> sums;
  for (std::size_t k = 0; k < files.size(); ++k) {
    const bool reads = reader_of(k) == static_cast<std::size_t>(communicator.rank_on_node());
    const auto sum = reads ? sum_if_readable(files[k]) : Sum{};
    sums.insert(sums.end(), sum.begin(), sum.end());
  }
  const auto read = communicator.join_on_node(sums);
  std::vector<SeenFile> seen;
  for (std::size_t k = 0; k < files.size(); ++k) {
    const auto* sum = read.data() + reader_of(k) * sums.size() + k * Sum{}.size();
    seen.push_back({files[k], {reinterpret_cast<const char*>(sum), sizeof(Sum)}});
  }
  expect_same_files(seen, communicator);
}

}  // namespace hessian_mpi::ranks
