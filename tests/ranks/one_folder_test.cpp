#include "hessian_mpi/ranks/one_folder.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "shared_folder.hpp"

namespace hessian_mpi::ranks {
namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// The bytes that this process has asked files for so far.
std::int64_t bytes_read() {
  std::ifstream in("/proc/self/io");
  std::int64_t bytes = -1;
  for (std::string word; bytes < 0 && in >> word;) {
    if (word == "rchar:") in >> bytes;
  }
  return bytes;
}

TEST(SameContents, AreReadByOneRankOfANode) {
  const auto world = Communicator::world();
  if (world.size() == 1) GTEST_SKIP() << "one rank compares nothing";
  const SharedFolder folder(world);
  constexpr std::int64_t size = 16 << 20;
  world.on_root([&] { write(folder / "data", std::string(size, 'x')); });
  const auto before = bytes_read();
  ASSERT_GE(before, 0);
  expect_same_contents({folder / "data"}, world);
  const auto bytes = bytes_read() - before;
  if (world.is_root()) {
    EXPECT_GE(bytes, size);
  } else {
    EXPECT_LT(bytes, size / 4);
  }
}

TEST(SameContents, MayBeThoseOfCopies) {
  const auto world = Communicator::world();
  const SharedFolder folder(world);
  const auto own = folder / std::to_string(world.rank());
  write(own, "the same in each");
  EXPECT_NO_THROW(expect_same_contents({own}, world));
}

TEST(SameContents, AreNotThoseOfAnotherFileOfTheSameSize) {
  const auto world = Communicator::world();
  if (world.size() == 1) GTEST_SKIP() << "one rank compares nothing";
  const SharedFolder folder(world);
  world.on_root([&] { write(folder / "model", "a network"); });
  const auto own = folder / std::to_string(world.rank());
  write(own, world.rank() + 1 < world.size() ? "data" : "atad");
  try {
    expect_same_contents({folder / "model", own}, world);
    ADD_FAILURE() << "no error was thrown on this rank";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    const auto path = (folder / std::to_string(world.size() - 1)).string();
    EXPECT_NE(std::string(error.what()).find("'" + path + "'"), std::string::npos) << error.what();
  }
}

TEST(SameContents, ARankThatNamesMoreFilesIsFound) {
  const auto world = Communicator::world();
  if (world.size() == 1) GTEST_SKIP() << "one rank compares nothing";
  const SharedFolder folder(world);
  world.on_root([&] { write(folder / "model", "a network"); });
  std::vector<std::filesystem::path> files{folder / "model"};
  if (world.rank() == 1) files.push_back(folder / "model");
  EXPECT_THROW(expect_same_contents(files, world), AgreedError);
}

TEST(SameContents, FilesThatNobodyCanReadAreToldElsewhere) {
  const auto world = Communicator::world();
  const SharedFolder folder(world);
  EXPECT_NO_THROW(expect_same_contents({folder / "missing"}, world));
}

}  // namespace
}  // namespace hessian_mpi::ranks
