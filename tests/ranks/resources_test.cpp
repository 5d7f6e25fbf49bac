#include "hessian_mpi/ranks/resources.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

namespace hessian_mpi::ranks {
namespace {

constexpr std::uint64_t mebibyte = 1 << 20;

// The environment and the processors of this process are as before after each test.
class ResourcesOfRank : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(sched_getaffinity(0, sizeof(before_), &before_), 0);
    for (const auto* name : names) {
      const char* value = std::getenv(name);
      if (value != nullptr) variables_[name] = value;
      unsetenv(name);
    }
  }
  void TearDown() override {
    sched_setaffinity(0, sizeof(before_), &before_);
    for (const auto* name : names) {
      unsetenv(name);
      if (variables_.contains(name)) setenv(name, variables_[name].c_str(), 1);
    }
  }
  static void set(const char* name, const char* value) { setenv(name, value, 1); }
  std::vector<int> processors() const {
    std::vector<int> all;
    for (int k = 0; k < CPU_SETSIZE; ++k) {
      if (CPU_ISSET(k, &before_)) all.push_back(k);
    }
    return all;
  }
  static void bind_to(int processor) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  }
  static int threads(const Communicator& world) { return resources_of_rank({}, {}, world).threads; }

 private:
  static constexpr std::array names{"OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_CPU",
                                    "SLURM_MEM_PER_NODE"};
  cpu_set_t before_{};
  std::map<std::string, std::string> variables_;
};

TEST_F(ResourcesOfRank, CoresThatRanksShareAreCountedInParts) {
  const auto world = Communicator::world();
  bind_to(processors().front());
  auto has = cores_of_rank(world);
  EXPECT_EQ(has.processors, 1);
  EXPECT_EQ(has.cores, 1);  // a part of one, for two ranks, but never none
  cpu_set_t of_parent;
  ASSERT_EQ(sched_getaffinity(getppid(), sizeof(of_parent), &of_parent), 0);
  EXPECT_EQ(has.bound, CPU_COUNT(&of_parent) > 1);
  EXPECT_EQ(threads(world), 1);
}

TEST_F(ResourcesOfRank, UnboundRanksShareAllCores) {
  const auto world = Communicator::world();
  std::set<std::string> cores;
  for (const int k : processors()) {
    std::ifstream in("/sys/devices/system/cpu/cpu" + std::to_string(k) + "/topology/core_cpus_list");
    std::string siblings;
    if (!(in >> siblings)) GTEST_SKIP() << "this machine does not tell of its cores";
    cores.insert(siblings);
  }
  EXPECT_EQ(cores_of_rank(world).cores, std::max(1, static_cast<int>(cores.size()) / world.size()));
}

TEST_F(ResourcesOfRank, ThreadsAreThoseOfTheEnvironment) {
  const auto world = Communicator::world();
  bind_to(processors().front());
  set("SLURM_CPUS_PER_TASK", "1");
  EXPECT_EQ(threads(world), 1);
  set("SLURM_CPUS_PER_TASK", "3");  // it was given three and bound to one: that is said
  const auto resources = resources_of_rank({}, {}, world);
  EXPECT_EQ(resources.threads, 3);
  EXPECT_NE(resources.warning.find("3 threads a rank, but ranks are bound to 1 core"), std::string::npos);
  EXPECT_NE(resources.warning.find("srun --cpus-per-task=3"), std::string::npos) << resources.warning;
  set("OMP_NUM_THREADS", "2");
  EXPECT_EQ(threads(world), 2);
  set("OMP_NUM_THREADS", "many");
  EXPECT_EQ(threads(world), 3);
}

TEST_F(ResourcesOfRank, IdleCoresAreToldOfWhereTheRankIsBound) {
  EXPECT_EQ(warning_of_threads(1, {4, 4, true}),
            "each rank has 4 cores and computes on 1: 3 stay idle; take more ranks, or --threads 4");
  EXPECT_EQ(warning_of_threads(1, {4, 4, false}), "");
  EXPECT_EQ(warning_of_threads(4, {4, 4, true}), "");
  EXPECT_EQ(warning_of_threads(1, {2, 1, true}), "") << "two hyperthreads are one core";
}

TEST_F(ResourcesOfRank, MemoryIsWhatSlurmGave) {
  EXPECT_FALSE(memory_by_slurm(4));
  set("SLURM_MEM_PER_CPU", "2000");
  EXPECT_EQ(memory_by_slurm(4), 2000 * mebibyte);
  set("SLURM_CPUS_PER_TASK", "3");
  EXPECT_EQ(memory_by_slurm(4), 6000 * mebibyte);
  set("SLURM_CPUS_ON_NODE", "8");
  EXPECT_EQ(memory_by_slurm(4), 4000 * mebibyte);
  set("SLURM_MEM_PER_NODE", "128000");
  EXPECT_EQ(memory_by_slurm(64), 2000 * mebibyte);
  set("SLURM_MEM_PER_NODE", "0");  // all of the node's
  EXPECT_EQ(memory_by_slurm(4), 4000 * mebibyte);
}

TEST_F(ResourcesOfRank, MemoryForBuffersIsAQuarterOfWhatSlurmLeaves) {
  const auto world = Communicator::world();
  set("SLURM_MEM_PER_CPU", "800");
  const auto by_default = resources_of_rank({}, {}, world).memory;
  EXPECT_LT(by_default, 200 * mebibyte);  // the process has some of it already
  EXPECT_GT(by_default, 50 * mebibyte);
  set("SLURM_MEM_PER_CPU", "1");
  EXPECT_EQ(resources_of_rank({}, {}, world).memory, 0U);
  EXPECT_EQ(resources_of_rank({}, 77, world).memory, 77U);
}

}  // namespace
}  // namespace hessian_mpi::ranks
