#include "hessian_mpi/system/used_files.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "expect_error.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::system {
namespace {

namespace fs = std::filesystem;

class UsedFilesTest : public ::testing::Test {
 protected:
  UsedFilesTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "elsewhere");
  }
  ~UsedFilesTest() override { fs::remove_all(folder_); }
  fs::path path(const fs::path& name) const { return folder_ / name; }
  void write(const fs::path& name, const std::string& words) const { std::ofstream(path(name)) << words; }
  std::string read(const fs::path& name) const {
    std::string words;
    std::getline(std::ifstream(path(name)), words);
    return words;
  }

 private:
  fs::path folder_ = fs::path(::testing::TempDir()) / "used_files_test";
};

TEST_F(UsedFilesTest, LinksLeadToAFileThatIsNotThereYet) {
  fs::create_symlink("second.h5", path("first.h5"));
  fs::create_symlink("elsewhere/../elsewhere/file.h5", path("second.h5"));
  EXPECT_EQ(target_of(path("first.h5")).lexically_normal(), path("elsewhere/file.h5"));
  EXPECT_EQ(target_of(path("none.h5")), path("none.h5"));
  fs::create_symlink(path("elsewhere/file.h5"), path("absolute.h5"));
  EXPECT_EQ(target_of(path("absolute.h5")), path("elsewhere/file.h5"));
  fs::create_symlink("circle.h5", path("circle.h5"));
  expect_input_error([&] { target_of(path("circle.h5")); }, {"circle.h5", "cannot be looked at"});
}

TEST_F(UsedFilesTest, SaysWhatIsNoRegularFile) {
  write("file", "words");
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  fs::create_symlink("fifo", path("link"));
  expect_regular(path("file"));
  expect_regular(path("none"));
  expect_input_error([&] { expect_regular(path("fifo")); }, {"fifo", "a FIFO"});
  expect_input_error([&] { expect_regular(path("link")); }, {"link", "a FIFO"});
  expect_input_error([&] { expect_regular(path("elsewhere")); }, {"elsewhere", "a folder"});
  expect_input_error([] { expect_regular("/dev/null"); }, {"/dev/null", "a device"});
  expect_input_error([&] { expect_inputs({{path("file"), path("fifo")}, {}}); }, {"fifo"});
}

TEST_F(UsedFilesTest, AnOutputIsNoInputByWhateverName) {
  write("input", "words");
  fs::create_symlink("input", path("link"));
  fs::create_hard_link(path("input"), path("hard"));
  write("other", "words");
  for (const auto* name : {"input", "elsewhere/../input", "link", "hard"}) {
    expect_input_error([&] { expect_output({{path("none"), path("input")}, path(name)}); }, {"is a file that is read"});
  }
  expect_output({{path("input")}, path("other")});
  expect_output({{path("none")}, path("none")});
  expect_output({{path("input")}, {}});
  expect_output({{}, path(std::string(230, 'n'))});
  expect_input_error([&] { expect_output({{}, path(std::string(231, 'n'))}); }, {"231 bytes"});
}

TEST_F(UsedFilesTest, WhatALinkLeadsToIsReplaced) {
  write("elsewhere/file", "old");
  fs::create_symlink("elsewhere/file", path("link"));
  const UnfinishedFile file(path("link"));
  EXPECT_EQ(file.path().parent_path(), path("elsewhere"));
  std::ofstream(file.path()) << "new";
  expect_input_error([&] { file.publish(path("link"), false); }, {"exists already"});
  file.publish(path("link"), true);
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(read("elsewhere/file"), "new");
}

TEST_F(UsedFilesTest, WhatIsNoRegularFileIsNotReplaced) {
  const UnfinishedFile file(path("output"));
  std::ofstream(file.path()) << "new";
  ASSERT_EQ(::mkfifo(path("output").c_str(), 0600), 0);
  expect_input_error([&] { file.publish(path("output"), true); }, {"a FIFO"});
  EXPECT_TRUE(fs::is_fifo(path("output")));
}

}  // namespace
}  // namespace hessian_mpi::system
