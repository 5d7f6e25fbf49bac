#include "hessian_mpi/system/node.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace hessian_mpi::system {
namespace {

constexpr std::uint64_t mebibyte = 1 << 20;

// The number after a key of a file of /proc, such as "MemTotal:" in meminfo; 0 where there is none.
std::uint64_t number_in(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) == 0) return std::stoull(line.substr(key.size()));
  }
  return 0;
}

// Entries "processor : 0" of cpuinfo.
int processors_of_cpuinfo() {
  std::ifstream in("/proc/cpuinfo");
  int count = 0;
  for (std::string line; std::getline(in, line);) count += line.rfind("processor", 0) == 0 ? 1 : 0;
  return count;
}

// Pairs of "physical id" and "core id" of cpuinfo; nothing where the machine does not tell them.
std::set<std::pair<std::string, std::string>> cores_of_cpuinfo() {
  std::ifstream in("/proc/cpuinfo");
  std::set<std::pair<std::string, std::string>> cores;
  std::string package;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("physical id", 0) == 0) package = line;
    if (line.rfind("core id", 0) == 0) cores.emplace(package, line);
  }
  return cores;
}

// Processors of "0-3,8", as /proc/self/status tells those that a process may use.
std::size_t processors_allowed_by_status() {
  std::ifstream in("/proc/self/status");
  const std::string key = "Cpus_allowed_list:";
  std::string line;
  while (std::getline(in, line) && line.rfind(key, 0) != 0) {
  }
  std::istringstream ranges(line.substr(key.size()));
  std::size_t count = 0;
  for (std::string range; std::getline(ranges, range, ',');) {
    const auto dash = range.find('-');
    count += dash == std::string::npos ? 1 : std::stoul(range.substr(dash + 1)) - std::stoul(range.substr(0, dash)) + 1;
  }
  return count;
}

TEST(Node, CountsTheProcessorsThatTheProcessMayUse) {
  EXPECT_EQ(processors_of_process().size(), processors_allowed_by_status());
}

TEST(Node, CountsHyperthreadsAsOneCore) {
  std::vector<int> all(static_cast<std::size_t>(processors_of_cpuinfo()));
  std::iota(all.begin(), all.end(), 0);
  const auto told = cores_of_cpuinfo();
  if (told.empty()) GTEST_SKIP() << "cpuinfo does not tell of cores";
  EXPECT_EQ(cores_of(all).size(), told.size());
}

TEST(Node, KnowsTheProcessorThatAProcessIsBoundTo) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const int last = processors_of_process().back();
  const auto processors_of_parent_before = processors_of_parent().size();
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(last, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(processors_of_process(), std::vector<int>{last});
  EXPECT_EQ(processors_of_parent().size(), processors_of_parent_before);
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
}

TEST(Node, HasAvailableMemoryBelowItsTotal) {
  EXPECT_GT(available_memory(), 0U);
  EXPECT_LE(available_memory(), number_in("/proc/meminfo", "MemTotal:") * 1024);
}

// Others take and give memory meanwhile, but not much between three calls. A control group's limit makes it less.
TEST(Node, HasNoMoreAvailableMemoryThanMeminfoTells) {
  const auto before = number_in("/proc/meminfo", "MemAvailable:") * 1024;
  const auto available = available_memory();
  const auto after = number_in("/proc/meminfo", "MemAvailable:") * 1024;
  EXPECT_LE(available, std::max(before, after) + 256 * mebibyte);
}

TEST(Node, KnowsTheProcessPeakMemory) {
  const auto before = peak_memory();
  EXPECT_GE(before, number_in("/proc/self/status", "VmRSS:") * 1024 / 2);
  std::vector<char> large(before + 64 * mebibyte);  // more than ever before, and touched
  std::fill(large.begin(), large.end(), '\1');
  EXPECT_EQ(std::accumulate(large.begin(), large.end(), std::uint64_t{0}), large.size());
  const auto after = peak_memory();
  EXPECT_GE(after, large.size());
  EXPECT_LT(after, large.size() + before + 64 * mebibyte);
  EXPECT_NEAR(static_cast<double>(after), static_cast<double>(number_in("/proc/self/status", "VmHWM:") * 1024),
              static_cast<double>(16 * mebibyte));
}

TEST(Node, KnowsWhatIsAllocatedThoughFreedMemoryIsKept) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer has an allocator of its own";
#endif
  keep_freed_memory();
  const auto before = allocated_memory();
  for (int time = 0; time < 2; ++time) {
    const std::vector<char> large(64 * mebibyte);
    EXPECT_NEAR(static_cast<double>(allocated_memory() - before), 64.0 * mebibyte, mebibyte);
  }
  EXPECT_NEAR(static_cast<double>(allocated_memory()), static_cast<double>(before), mebibyte);
}

TEST(Node, KeepsThePeakWhenMemoryIsFreed) {
  { std::vector<char> large(peak_memory() + 32 * mebibyte, '\1'); }
  const auto peak = peak_memory();
  EXPECT_GE(peak, 32 * mebibyte);
  EXPECT_GE(peak_memory(), peak);
}

// Others write meanwhile: near is within a gibibyte.
TEST(Node, KnowsTheFreeDiskOfAFolder) {
  const auto folder = std::filesystem::temp_directory_path();
  struct statvfs status {};
  ASSERT_EQ(statvfs(folder.c_str(), &status), 0);
  const double bytes = static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize);
  EXPECT_NEAR(static_cast<double>(free_disk(folder)), bytes, 1e9);
}

TEST(Node, HasNoFreeDiskInAFileSystemThatTakesNone) {
  EXPECT_EQ(free_disk("/proc"), 0U);
}

}  // namespace
}  // namespace hessian_mpi::system
