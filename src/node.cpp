#include "hessian_mpi/node.hpp"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/stopwatch.hpp"

namespace hessian_mpi {
namespace {

constexpr std::uint64_t kibibyte = 1024;

std::optional<std::uint64_t> number_in(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::uint64_t number = 0;
  return in >> number ? std::optional(number) : std::nullopt;  // "max" is no number: no limit
}

std::uint64_t available_on_node() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  std::uint64_t kibibytes = 0;
  std::string unit;
  while (in >> key >> kibibytes >> unit) {
    if (key == "MemAvailable:") return kibibytes * kibibyte;
  }
  return static_cast<std::uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// The folder of this process's control group (version 2), where batch systems set memory limits.
std::filesystem::path control_group() {
  std::ifstream in("/proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
  }
  return {};
}

std::uint64_t left_in_control_group() {
  const auto group = control_group();
  const auto limit = number_in(group / "memory.max");
  const auto used = number_in(group / "memory.current");
  if (!limit || !used) return std::numeric_limits<std::uint64_t>::max();
  return *limit > *used ? *limit - *used : 0;
}

}  // namespace

int cores_of_node() {
  return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

int cores_of_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : cores_of_node();
}

std::uint64_t available_memory() {
  return std::min(available_on_node(), left_in_control_group());
}

std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * kibibyte;
}

std::uint64_t free_disk(const std::filesystem::path& folder) {
  return std::filesystem::space(folder).available;
}

double seconds_to_write(const std::filesystem::path& folder, std::uint64_t bytes) {
  const auto fail = [&](const char* what) {
    throw RunError(
        text("cannot ", what, " a file in '", folder.string(), "': ", std::generic_category().message(errno)));
  };
  int descriptor = open(folder.c_str(), O_TMPFILE | O_WRONLY, S_IRUSR | S_IWUSR);
  if (descriptor < 0) {  // file systems without such files: its name is gone before anything is in it
    std::string name = (folder / ".hessian_mpi_trial_XXXXXX").string();
    descriptor = mkstemp(name.data());
    if (descriptor < 0) fail("make");
    unlink(name.c_str());
  }
  const std::unique_ptr<const int, void (*)(const int*)> closing(&descriptor, [](const int* file) { close(*file); });
  constexpr std::uint64_t piece = 16 << 20;
  std::vector<char> numbers(piece);
  for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] = static_cast<char>(k * k >> 7);
  posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));  // where the file system cannot, the same without
  const Stopwatch watch;
  for (std::uint64_t done = 0; done < bytes;) {
    const auto written = write(descriptor, numbers.data(), std::min(piece, bytes - done));
    if (written <= 0) fail("write");
    sync_file_range(descriptor, static_cast<off_t>(done), written, SYNC_FILE_RANGE_WRITE);
    done += static_cast<std::uint64_t>(written);
  }
  if (fsync(descriptor) != 0) fail("sync");
  return watch.seconds();
}

void keep_freed_memory() {
  constexpr int one_gibibyte = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, one_gibibyte);
  mallopt(M_TRIM_THRESHOLD, one_gibibyte);
}

}  // namespace hessian_mpi
