#include "hessian_mpi/system/surroundings.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

namespace hessian_mpi::system {
namespace {

TEST(Surroundings, NameTheFileSystemOfAPathThatIsNotThereYet) {
  const auto found = file_system_of("/proc/nothing/there.h5");
  EXPECT_EQ(found.type, "proc");
  EXPECT_EQ(found.mounted_at, "/proc");
  EXPECT_EQ(file_system_of("/sys").type, "sysfs");
}

// Names that begin like a mount's are not in it.
TEST(Surroundings, TellNeighboursOfAMountFromWhatIsInIt) {
  EXPECT_EQ(file_system_of("/process").mounted_at, file_system_of("/").mounted_at);
  EXPECT_EQ(file_system_of("/").mounted_at, "/");
}

// The folder that is named as the mount is on the same device as what was asked for.
TEST(Surroundings, NameTheMountThatHoldsTheFolder) {
  struct stat here {};
  struct stat mount {};
  ASSERT_EQ(::stat(".", &here), 0);
  ASSERT_EQ(::stat(file_system_of("relative.h5").mounted_at.c_str(), &mount), 0);
  EXPECT_EQ(here.st_dev, mount.st_dev);
}

TEST(Surroundings, FindLibrariesWhereTheyWereLoaded) {
  const auto found = loaded_library("libstdc++.so");
  EXPECT_TRUE(found.is_absolute() && std::filesystem::exists(found)) << found;
  EXPECT_TRUE(loaded_library("libnone.so").empty());
}

TEST(Surroundings, NameTheMachine) {
  EXPECT_TRUE(text_of_machine().starts_with("Linux ")) << text_of_machine();
  EXPECT_TRUE(text_of_machine().ends_with(" cores")) << text_of_machine();
}

}  // namespace
}  // namespace hessian_mpi::system
