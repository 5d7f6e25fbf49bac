#include "hessian_mpi/system/node.hpp"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace hessian_mpi::system {
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

std::uint64_t resident_memory() {
  std::ifstream in("/proc/self/statm");
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  in >> all >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t free_disk(const std::filesystem::path& folder) {
  return std::filesystem::space(folder).available;
}

void keep_freed_memory() {
  constexpr int one_gibibyte = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, one_gibibyte);
  mallopt(M_TRIM_THRESHOLD, one_gibibyte);
}

}  // namespace hessian_mpi::system
