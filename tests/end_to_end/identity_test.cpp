// Which file a job writes: its id, and that all ranks see the same one.

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <iterator>

#include "program.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

using std::chrono::seconds;

Words job(const Words& options = {}) {
  const auto folder = models() / "question";
  return Words{"--model", folder / "model.pt", "--data", folder / "data.h5", "--output", "x.h5", "--threads", "1"} +
         options;
}

// A rank in each of two folders.
Finished run_in_two_folders(const Folder& folder, const Words& options) {
  Words command = launch(1, {}, {}, "-wdir") + Words{folder / "a", HESSIAN_MPI_PROGRAM} + job(options);
  command = command + Words{":", "-n", "1", "-wdir", folder / "b", HESSIAN_MPI_PROGRAM} + job(options);
  auto finished = run_command(command, folder.path(), seconds(60));
  finished.errors = without_notices_of_mpirun(finished.errors);
  return finished;
}

void expect_refused(const Finished& finished, const Folder& folder) {
  EXPECT_EQ(finished.exit_code, 2) << finished.errors;
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  for (const auto& words : {std::string("rank 1 on ") + host.data(), std::string("rank 0 on ") + host.data(),
                            "'" + (folder / "a").string() + "'", "'" + (folder / "b").string() + "'"}) {
    EXPECT_NE(finished.errors.find(words), std::string::npos) << words << " is not in " << finished.errors;
  }
}

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

class OnePlace : public testing::Test {
 protected:
  OnePlace() {
    for (const auto* name : {"a", "b"}) std::filesystem::create_directory(folder / name);
  }
  const Folder folder;
};

TEST_F(OnePlace, IsWhatAllRanksMustSee) {
  expect_refused(run_in_two_folders(folder, {}), folder);
  EXPECT_EQ(files_in(folder / "a") + files_in(folder / "b"), 0U);
}

TEST_F(OnePlace, IsLookedForBeforeAnotherFileOfThatNameIsTouched) {
  ASSERT_EQ(run_program(1, job({"--seed", "5"}), folder / "b").exit_code, 0);
  const auto before = content_of(folder / "b" / "x.h5");
  expect_refused(run_in_two_folders(folder, {}), folder);
  EXPECT_TRUE(content_of(folder / "b" / "x.h5") == before);
  // One in each, the same to its id.
  std::filesystem::copy_file(folder / "b" / "x.h5", folder / "a" / "x.h5");
  for (const auto* option : {"--resume", "--overwrite"}) {
    expect_refused(run_in_two_folders(folder, {"--seed", "5", option}), folder);
    for (const auto* name : {"a", "b"}) EXPECT_TRUE(content_of(folder / name / "x.h5") == before);
  }
  EXPECT_EQ(files_in(folder / "a") + files_in(folder / "b"), 2U);
}

TEST(FileId, IsAnotherForEveryFile) {
  const Folder folder;
  std::string first;
  for (int k = 0; k < 2; ++k) {
    ASSERT_EQ(run_program(1, job({"--overwrite"}), folder.path()).exit_code, 0);
    const auto id = StoredFile(folder / "x.h5").attribute_text("/", "file_id");
    EXPECT_EQ(id.size(), 36U);
    EXPECT_NE(id, first);
    first = id;
  }
}

}  // namespace
}  // namespace end_to_end
