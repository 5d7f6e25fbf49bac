// Bytes on their way to the disk.

#include "hessian_mpi/system/writeback.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "content_of.hpp"
#include "hessian_mpi/base/error.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::system {
namespace {

TEST(Writeback, PutsBytesWhereTheyBelong) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto path = folder / "some";
  std::ofstream(path) << "0123456789";
  EarlyWriteback file(path);
  file.write(2, {'a', 'b'});
  file.start(2, 2);
  file.write(9, {'y', 'z'});
  file.start(9, 2);
  file.finish();
  file.sync();
  EXPECT_EQ(content_of(path), "01ab45678yz");
}

TEST(Writeback, NamesTheFileThatItCannotOpen) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  try {
    EarlyWriteback file(folder / "absent");
    FAIL();
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find((folder / "absent").string()), std::string::npos) << error.what();
  }
}

TEST(Writeback, TrialTakesTimeAndLeavesNothingBehind) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto cost = try_writing(folder / "", (40 << 20) + 3, 16 << 20);
  EXPECT_GT(cost.processor_seconds, 0);
  EXPECT_GE(cost.seconds, 0.99 * cost.processor_seconds);  // two clocks
  EXPECT_TRUE(std::filesystem::is_empty(folder / ""));
}

TEST(Writeback, TrialInAFolderThatDoesNotExistIsAnError) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  EXPECT_THROW(try_writing(folder / "absent", 1, 1), RunError);
}

}  // namespace
}  // namespace hessian_mpi::system
