#include "hessian_mpi/system/control_group.hpp"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

namespace hessian_mpi::system {
namespace {

using Path = std::filesystem::path;

std::optional<std::int64_t> number_in(const Path& file) {
  std::ifstream in(file);
  std::int64_t number = 0;
  return in >> number ? std::optional(number) : std::nullopt;  // "max" is no number: no limit
}

// The number after a word of memory.stat; 0 where it has none.
std::int64_t number_after(const std::string& key, const Path& file) {
  std::ifstream in(file);
  std::string word;
  std::int64_t number = 0;
  while (in >> word >> number) {
    if (word == key) return number;
  }
  return 0;
}

// A group and its parents, as folders below the place where they are mounted. Of a container, which sees its own group
// as the topmost one, the path may lead nowhere: what there is counts.
std::vector<Path> folders_of(const Path& mount, const Path& group) {
  std::vector<Path> folders{mount};
  for (const auto& name : group.lexically_normal().relative_path()) folders.push_back(folders.back() / name);
  return folders;
}

void limit_memory(GroupLimits& limits, const Path& limit, const Path& used, const char* reclaimable) {
  const auto most = number_in(limit);
  const auto now = number_in(used);
  if (!most || !now) return;
  const auto left = *most - *now + number_after(reclaimable, limit.parent_path() / "memory.stat");
  limits.memory = std::min(limits.memory, static_cast<std::uint64_t>(std::max<std::int64_t>(0, left)));
}

void limit_cores(GroupLimits& limits, std::int64_t quota, std::int64_t period) {
  if (quota <= 0 || period <= 0) return;
  limits.cores = std::min(limits.cores, static_cast<double>(quota) / static_cast<double>(period));
}

void apply_version_2(GroupLimits& limits, const Path& folder) {
  for (const auto* limit : {"memory.max", "memory.high"}) {
    limit_memory(limits, folder / limit, folder / "memory.current", "inactive_file");
  }
  std::ifstream in(folder / "cpu.max");
  std::int64_t quota = 0;
  std::int64_t period = 0;
  if (in >> quota >> period) limit_cores(limits, quota, period);
}

void apply_version_1(GroupLimits& limits, const Path& folder) {
  limit_memory(limits, folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes", "total_inactive_file");
  limit_cores(limits, number_in(folder / "cpu.cfs_quota_us").value_or(0),
              number_in(folder / "cpu.cfs_period_us").value_or(0));
}

}  // namespace

GroupLimits limits_of_control_groups(const Path& root) {
  GroupLimits limits;
  const auto mounts = root / "sys/fs/cgroup";
  std::ifstream in(root / "proc/self/cgroup");
  // "0::/group" of version 2, "4:memory:/group" or "1:cpu,cpuacct:/group" of version 1, or both.
  for (std::string line; std::getline(in, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const Path group = line.substr(second + 1);
    if (controllers == ",,") {
      for (const auto& mount : {mounts, mounts / "unified"}) {
        for (const auto& folder : folders_of(mount, group)) apply_version_2(limits, folder);
      }
      continue;
    }
    for (const std::string controller : {"memory", "cpu"}) {
      if (controllers.find("," + controller + ",") == std::string::npos) continue;
      for (const auto& folder : folders_of(mounts / controller, group)) apply_version_1(limits, folder);
    }
  }
  return limits;
}

}  // namespace hessian_mpi::system
