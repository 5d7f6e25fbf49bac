// Part files, as the tasks of a job array make them, and their join.

#include <gtest/gtest.h>

#include "program.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

Words job(const std::string& output, const Words& options = {}) {
  const auto folder = models() / "question";
  return Words{"--model", folder / "model.pt", "--data", folder / "data.h5", "--output", output, "--threads", "1"} +
         options;
}

Finished join(const Folder& folder, const Words& arguments) {
  return run_command(Words{HESSIAN_JOIN_PROGRAM} + arguments, folder.path(), std::chrono::seconds(60));
}

void make_parts(const Folder& folder, const Words& rows) {
  for (const auto& part : rows) {
    std::string name = part + ".h5";
    for (auto& c : name) c = c == ':' || c == '/' ? '-' : c;
    const auto finished = run_program(2, job(name, {"--rows", part}), folder.path());
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  }
}

TEST(Parts, HoldTheirRowsAndJoinToTheWholeMatrix) {
  const Folder folder;
  ASSERT_EQ(run_program(2, job("whole.h5"), folder.path()).exit_code, 0);
  make_parts(folder, {"0:100", "100:101", "101:475"});
  const auto whole = StoredFile(folder / "whole.h5").bytes("/hessian");
  const StoredFile part(folder / "100-101.h5");
  EXPECT_EQ(part.shape("/hessian"), (std::vector<std::uint64_t>{1, 475}));
  EXPECT_EQ(part.bytes("/hessian"), whole.substr(100 * 475 * 4, 475 * 4));
  EXPECT_EQ(part.attribute_integer("/", "complete"), 1);
  const Words parts{"101-475.h5", "0-100.h5", "100-101.h5"};
  for (const auto& options : {Words{"--output", "joined.h5"}, Words{"--output", "copied.h5", "--copy"}}) {
    const auto joined = join(folder, parts + options);
    ASSERT_EQ(joined.exit_code, 0) << joined.errors;
    EXPECT_NE(joined.output.find("475 x 475"), std::string::npos) << joined.output;
  }
  EXPECT_EQ(StoredFile(folder / "copied.h5").bytes("/hessian"), whole);
  const auto numbers = StoredFile(folder / "whole.h5").numbers("/hessian");
  EXPECT_EQ(StoredFile(folder / "joined.h5").numbers("/hessian"), numbers);
  EXPECT_EQ(StoredFile(folder / "joined.h5").checksums("/blocks/checksum"),
            StoredFile(folder / "whole.h5").checksums("/blocks/checksum"));
}

TEST(Parts, OfSoManyAreCutEvenly) {
  const Folder folder;
  make_parts(folder, {"0/3", "1/3", "2/3"});
  EXPECT_EQ(StoredFile(folder / "1-3.h5").attribute_integer("/", "row_begin"), 158);
  EXPECT_EQ(StoredFile(folder / "1-3.h5").attribute_integer("/", "row_end"), 316);
  const auto joined = join(folder, {"0-3.h5", "1-3.h5", "2-3.h5"});
  EXPECT_EQ(joined.exit_code, 0) << joined.errors;
  EXPECT_EQ(StoredFile(folder / "hessian.h5").attribute_integer("/", "complete"), 1);
}

TEST(Parts, ThatDoNotFitAreRefusedByName) {
  const Folder folder;
  make_parts(folder, {"0:100", "200:475"});
  const auto gap = join(folder, {"0-100.h5", "200-475.h5"});
  EXPECT_EQ(gap.exit_code, 2);
  EXPECT_EQ(gap.errors, "hessian_join: error: no part has rows 100:200, before '200-475.h5' (rows 200:475)\n");
  const auto none = join(folder, {});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_NE(none.errors.find("name the part files"), std::string::npos) << none.errors;
  EXPECT_FALSE(std::filesystem::exists(folder / "hessian.h5"));
}

TEST(Parts, ThatWereReplacedAreRefusedByNameWhereTheJoinedFileIsRead) {
  const Folder folder;
  make_parts(folder, {"0:100", "100:475"});
  ASSERT_EQ(join(folder, {"0-100.h5", "100-475.h5", "--output", "joined.h5"}).exit_code, 0);
  const Words read{"joined.h5", "--output", "read.h5", "--overwrite"};
  ASSERT_EQ(join(folder, read).exit_code, 0);
  // Of another job, whose rows fit as well; of the same job once more; none.
  for (const auto& options : {Words{"--l2", "0.5", "--overwrite"}, Words{"--overwrite"}, Words{}}) {
    if (options.empty()) std::filesystem::remove(folder / "0-100.h5");
    if (!options.empty()) {
      const auto made = run_program(1, job("0-100.h5", Words{"--rows", "0:100"} + options), folder.path());
      ASSERT_EQ(made.exit_code, 0) << made.errors;
    }
    const auto refused = join(folder, read);
    EXPECT_EQ(refused.exit_code, 2) << refused.errors;
    EXPECT_NE(refused.errors.find("'joined.h5' refers to the part '0-100.h5', which is"), std::string::npos)
        << refused.errors;
  }
}

TEST(Parts, AreJoinedByAProgramThatTellsItsVersion) {
  const Folder folder;
  const auto told = join(folder, {"--version"});
  EXPECT_EQ(told.exit_code, 0) << told.errors;
  EXPECT_EQ(told.output.find("hessian_join "), 0U) << told.output;
  EXPECT_NE(told.output.find("\nHDF5 "), std::string::npos) << told.output;
  EXPECT_NE(join(folder, {"--help"}).output.find("--version"), std::string::npos);
}

TEST(Parts, BeyondTheMatrixAreRefused) {
  const Folder folder;
  const auto finished = run_program(2, job("part.h5", {"--rows", "400:476"}), folder.path());
  EXPECT_EQ(finished.exit_code, 2) << finished.errors;
  EXPECT_NE(finished.errors.find("the Hessian has 475 rows"), std::string::npos) << finished.errors;
  EXPECT_FALSE(std::filesystem::exists(folder / "part.h5"));
}

}  // namespace
}  // namespace end_to_end
