#include "hessian_mpi/system/node.hpp"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/control_group.hpp"

namespace hessian_mpi::system {
namespace {

constexpr std::uint64_t kibibyte = 1024;

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

// The first of the hyperthreads "0-1" or "3,67" of its core, which stands for the core.
int core_of(int cpu) {
  std::ifstream in(text("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
  int first = 0;
  return in >> first ? first : cpu;
}

std::vector<int> processors_of(pid_t process) {
  std::vector<int> processors;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(process, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) processors.push_back(cpu);
    }
  }
  return processors;
}

}  // namespace

std::vector<int> processors_of_process() {
  return processors_of(0);
}

std::vector<int> processors_of_parent() {
  return processors_of(getppid());
}

std::set<int> cores_of(const std::vector<int>& processors) {
  std::set<int> cores;
  for (const int cpu : processors) cores.insert(core_of(cpu));
  return cores;
}

std::uint64_t available_memory() {
  return std::min(available_on_node(), limits_of_control_groups().memory);
}

std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * kibibyte;
}

std::uint64_t allocated_memory() {
#if __GLIBC_PREREQ(2, 33)
  const auto heap = mallinfo2();
  return heap.uordblks + heap.hblkhd;
#else  // whose counts go round at 4 GiB
  const auto heap = mallinfo();
  return static_cast<std::uint64_t>(static_cast<unsigned>(heap.uordblks)) + static_cast<unsigned>(heap.hblkhd);
#endif
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
