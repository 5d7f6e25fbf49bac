#include "hessian_mpi/system/posix_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "hessian_mpi/base/error.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::system {
namespace {

// What call throws; empty where it throws nothing.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const RunError& error) {
    return error.what();
  }
  return "";
}

TEST(PosixFile, ReadsWhatWasWrittenAndNamesWhereItEnds) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto path = folder / "some";
  const PosixFile file(path, O_RDWR | O_CREAT | O_EXCL);
  file.write(0, "0123456789", 10);
  file.write(8, "ab", 2);
  EXPECT_EQ(file.size(), 10U);
  std::string bytes(4, '?');
  EXPECT_EQ(PosixFile(path, O_RDONLY).read_some(7, bytes.data(), 4), 3U);
  EXPECT_EQ(bytes, "7ab?");
  file.read(6, bytes.data(), 4);
  EXPECT_EQ(bytes, "67ab");
  EXPECT_EQ(error_of([&] { file.read(7, bytes.data(), 4); }),
            text("'", path.string(), "' could not be read at byte 10: it ends there"));
  file.resize(3);
  EXPECT_EQ(file.size(), 3U);
}

TEST(PosixFile, NamesTheFileAndTheReason) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto path = folder / "some";
  EXPECT_EQ(error_of([&] { PosixFile(path, O_RDWR); }),
            text("'", path.string(), "' could not be opened: No such file or directory"));
  PosixFile(path, O_RDWR | O_CREAT | O_EXCL);
  EXPECT_EQ(error_of([&] { PosixFile(path, O_RDWR | O_CREAT | O_EXCL); }),
            text("'", path.string(), "' could not be opened: File exists"));
  EXPECT_EQ(error_of([&] { PosixFile(path, O_RDONLY).write(0, "x", 1); }),
            text("'", path.string(), "' could not be written to: Bad file descriptor"));
}

TEST(PosixFile, SaysThatADiskIsFull) {
  const PosixFile full("/dev/full", O_WRONLY);
  EXPECT_EQ(error_of([&] { full.write(0, "x", 1); }), "'/dev/full' could not be written to: No space left on device");
}

TEST(PosixFile, TakesSpaceWithAndWithoutGrowing) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto file = PosixFile::nameless(folder / "");
  EXPECT_TRUE(std::filesystem::is_empty(folder / ""));
  EXPECT_EQ(file.take_space(0, 1000, /*grow=*/false), 0);
  EXPECT_EQ(file.size(), 0U);
  EXPECT_EQ(file.take_space(0, 1000), 0);
  EXPECT_EQ(file.size(), 1000U);
  constexpr auto beyond_any_disk = std::uint64_t{1} << 60;
  EXPECT_NE(file.take_space(0, beyond_any_disk), 0);
}

TEST(PosixFile, IsClosedOnceByTheLastOwner) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  int descriptor = -1;
  {
    PosixFile first(folder / "some", O_RDWR | O_CREAT);
    descriptor = first.descriptor();
    const PosixFile second(std::move(first));
    EXPECT_EQ(second.descriptor(), descriptor);
    EXPECT_EQ(::fcntl(descriptor, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_EQ(::fcntl(descriptor, F_GETFD), -1);
}

}  // namespace
}  // namespace hessian_mpi::system
