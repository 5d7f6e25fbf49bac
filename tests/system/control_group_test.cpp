#include "hessian_mpi/system/control_group.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "shared_folder.hpp"

namespace hessian_mpi::system {
namespace {

constexpr auto no_limit = std::numeric_limits<std::uint64_t>::max();

// A machine of files: what /proc and /sys say of control groups.
class ControlGroups : public testing::Test {
 protected:
  void tell(const std::string& file, const std::string& words) const {
    const auto path = root() / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << words << '\n';
  }
  void tell_memory(const std::string& group, const std::string& most, const std::string& used) const {
    tell(group + "/memory.max", most);
    tell(group + "/memory.current", used);
  }
  GroupLimits limits() const { return limits_of_control_groups(root()); }

 private:
  std::filesystem::path root() const { return folder_ / "root"; }

  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

TEST_F(ControlGroups, AreNoLimitWhereThereAreNone) {
  EXPECT_EQ(limits().memory, no_limit);
  EXPECT_TRUE(std::isinf(limits().cores));
  tell("proc/self/cgroup", "0::/user.slice");
  EXPECT_EQ(limits().memory, no_limit);
}

TEST_F(ControlGroups, OfVersion2LimitByTheirParentsToo) {
  tell("proc/self/cgroup", "0::/job/step/task");
  tell_memory("sys/fs/cgroup/job", "4000", "1500");
  tell_memory("sys/fs/cgroup/job/step", "max", "1400");
  tell_memory("sys/fs/cgroup/job/step/task", "9000", "700");
  EXPECT_EQ(limits().memory, 2500U);
  tell("sys/fs/cgroup/job/step/task/memory.high", "1000");
  EXPECT_EQ(limits().memory, 300U);
  tell_memory("sys/fs/cgroup/job/step", "1400", "1500");  // lowered meanwhile
  EXPECT_EQ(limits().memory, 0U);
}

TEST_F(ControlGroups, CountCachedFilesAsFree) {
  tell("proc/self/cgroup", "0::/job");
  tell_memory("sys/fs/cgroup/job", "4000", "3900");
  tell("sys/fs/cgroup/job/memory.stat", "anon 900\nfile 3000\nactive_file 600\ninactive_file 2400\nslab 7");
  EXPECT_EQ(limits().memory, 2500U);
}

TEST_F(ControlGroups, OfVersion1HaveFoldersOfTheirOwn) {
  tell("proc/self/cgroup", "12:cpuset:/\n4:memory:/slurm/uid_1000/job_7\n3:cpu,cpuacct:/slurm");
  const std::string slurm = "sys/fs/cgroup/memory/slurm";
  tell(slurm + "/memory.limit_in_bytes", "9223372036854771712");
  tell(slurm + "/memory.usage_in_bytes", "100");
  tell(slurm + "/uid_1000/job_7/memory.limit_in_bytes", "8000");
  tell(slurm + "/uid_1000/job_7/memory.usage_in_bytes", "3000");
  tell(slurm + "/uid_1000/job_7/memory.stat", "inactive_file 1\ntotal_inactive_file 500");
  tell("sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us", "250000");
  tell("sys/fs/cgroup/cpu/slurm/cpu.cfs_period_us", "100000");
  EXPECT_EQ(limits().memory, 5500U);
  EXPECT_DOUBLE_EQ(limits().cores, 2.5);
  tell("sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us", "-1");
  EXPECT_TRUE(std::isinf(limits().cores));
}

TEST_F(ControlGroups, OfVersion2LimitProcessorTime) {
  tell("proc/self/cgroup", "0::/pod/container");
  tell("sys/fs/cgroup/pod/cpu.max", "400000 100000");
  tell("sys/fs/cgroup/pod/container/cpu.max", "max 100000");
  EXPECT_DOUBLE_EQ(limits().cores, 4);
}

// The file names the group as the machine sees it, the container has mounted its own group as the topmost one.
TEST_F(ControlGroups, OfContainersAreFoundWhereTheyAreMounted) {
  tell("proc/self/cgroup", "4:memory:/docker/0123abcd\n0::/../other");
  tell("sys/fs/cgroup/memory/memory.limit_in_bytes", "6000");
  tell("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000");
  EXPECT_EQ(limits().memory, 5000U);
  tell_memory("sys/fs/cgroup/unified", "3000", "1000");
  EXPECT_EQ(limits().memory, 2000U);
}

}  // namespace
}  // namespace hessian_mpi::system
