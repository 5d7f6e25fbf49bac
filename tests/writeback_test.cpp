// Bytes on their way to the disk.

#include "hessian_mpi/writeback.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "hessian_mpi/error.hpp"

namespace hessian_mpi {
namespace {

class Writeback : public testing::Test {
 protected:
  Writeback() : folder_(std::filesystem::temp_directory_path() / ("writeback." + std::to_string(getpid()))) {
    std::filesystem::create_directory(folder_);
  }
  ~Writeback() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(Writeback, PutsBytesWhereTheyBelong) {
  const auto path = folder_ / "some";
  std::ofstream(path) << "0123456789";
  EarlyWriteback file(path);
  file.write(2, {'a', 'b'});
  file.start(2, 2);
  file.write(9, {'y', 'z'});
  file.start(9, 2);
  file.finish();
  file.sync();
  EXPECT_EQ(contents(path), "01ab45678yz");
}

TEST_F(Writeback, NamesTheFileThatItCannotOpen) {
  try {
    EarlyWriteback file(folder_ / "absent");
    FAIL();
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find((folder_ / "absent").string()), std::string::npos) << error.what();
  }
}

TEST_F(Writeback, TrialTakesTimeAndLeavesNothingBehind) {
  const auto cost = try_writing(folder_, (40 << 20) + 3);
  EXPECT_GT(cost.processor_seconds, 0);
  EXPECT_GE(cost.seconds, 0.99 * cost.processor_seconds);  // two clocks
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(Writeback, TrialInAFolderThatDoesNotExistIsAnError) {
  EXPECT_THROW(try_writing(folder_ / "absent", 1), RunError);
}

}  // namespace
}  // namespace hessian_mpi
