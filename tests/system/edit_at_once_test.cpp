#include "hessian_mpi/system/edit_at_once.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "content_of.hpp"
#include "expect_error.hpp"
#include "hessian_mpi/base/checksum.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::system {
namespace {

class EditAtOnce : public testing::Test {
 protected:
  EditAtOnce() {
    std::ofstream out(path(), std::ios::binary);
    out << before;
  }
  std::filesystem::path path() const { return folder_ / "file"; }
  std::string content() const { return content_of(path()); }
  std::size_t files() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_ / "")) ++count;
    return count;
  }
  static void put(const std::filesystem::path& file, std::size_t offset, const std::string& text) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(offset));
    out << text;
  }
  // Changes two places far from each other and makes the file longer.
  void edit() const { edit_at_once(path(), left_alone, change); }
  static void change(const std::filesystem::path& copy) {
    put(copy, 10, "first");
    put(copy, 90'000, "second");
    put(copy, 100'000, std::string(5000, 'z'));
  }

  // The log of such an edit, as a kill before its last step leaves it; the file is as it was before.
  std::string log_of_edit() const {
    const auto kept = path().parent_path() / "kept";
    std::ofstream{kept};
    edit_at_once(path(), left_alone, [&](const std::filesystem::path& copy) {
      change(copy);
      std::filesystem::create_hard_link(kept, path().parent_path() / ".file.redo");
    });
    auto log = content_of(kept);
    std::filesystem::remove(kept);
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << before;
    return log;
  }

  const std::string before = std::string(100'000, 'a');
  const std::string after = [this] {
    auto text = before + std::string(5000, 'z');
    text.replace(10, 5, "first");
    text.replace(90'000, 6, "second");
    return text;
  }();
  const std::vector<Extent> left_alone{{20'001, 60'000}};

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

TEST_F(EditAtOnce, TakesOverWhatTheEditChanged) {
  edit();
  EXPECT_TRUE(content() == after);
  EXPECT_EQ(files(), 1U) << "a log was left";
}

TEST_F(EditAtOnce, ShowsTheEditAllBytesButThoseLeftAlone) {
  edit_at_once(path(), left_alone, [&](const std::filesystem::path& copy) {
    auto expected = before;
    expected.replace(20'001, 60'000, std::string(60'000, '\0'));
    EXPECT_TRUE(content_of(copy) == expected);
    put(copy, 30'000, "not to be taken over");
  });
  EXPECT_TRUE(content() == before);
}

TEST_F(EditAtOnce, LeavesTheFileAsItWasWhereTheEditFails) {
  EXPECT_THROW(edit_at_once(path(), left_alone,
                            [](const std::filesystem::path& copy) {
                              put(copy, 10, "half an edit");
                              throw RunError("no");
                            }),
               RunError);
  EXPECT_TRUE(content() == before);
  EXPECT_EQ(files(), 1U);
}

// A child is killed at some moment of the edit: what is there afterwards, recovered, is all of it or nothing.
TEST_F(EditAtOnce, IsWholeOrNothingWheneverTheProcessIsKilled) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> part(0, 1);
  // Half of the kills are to come before the edit counts, and half after, however long edits take here.
  std::chrono::duration<double> latest = std::chrono::milliseconds(3);
  int untouched = 0;
  int edited = 0;
  for (int k = 0; k < 200; ++k) {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << before;
    const pid_t child = fork();
    if (child == 0) {
      edit();
      _exit(0);
    }
    std::this_thread::sleep_for(part(random) * latest);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    recover_edit(path());
    ASSERT_TRUE(content() == before || content() == after) << "kill " << k;
    const bool came_early = content() == before;
    ++(came_early ? untouched : edited);
    latest *= came_early ? 1.25 : 0.8;
    ASSERT_EQ(files(), 1U);
  }
  EXPECT_GT(untouched, 0);
  EXPECT_GT(edited, 0);
}

// --- the log of an edit that was interrupted

TEST_F(EditAtOnce, IsCompletedFromWhereverItWasInterrupted) {
  const auto log = log_of_edit();
  auto torn = after;
  torn.replace(12, 3, before, 12, 3);  // within a page
  for (const auto& found : {before, before + std::string(5000, '\0'), torn, after}) {
    const auto moved = path().parent_path() / "moved";
    std::ofstream(moved, std::ios::binary | std::ios::trunc) << found;
    std::ofstream(path().parent_path() / ".moved.redo", std::ios::binary) << log;
    recover_edit(moved);
    EXPECT_TRUE(content_of(moved) == after);
    EXPECT_EQ(files(), 2U) << "a log was left";
  }
}

TEST_F(EditAtOnce, TakesOverNothingFromTheLogOfAnotherFile) {
  const auto log = log_of_edit();
  auto other_where_it_changes = before;
  other_where_it_changes[11] = 'b';
  auto other_elsewhere = before;
  other_elsewhere[8192] = 'b';
  for (const auto& other : {other_where_it_changes, other_elsewhere, before + 'a', std::string()}) {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << other;
    std::ofstream(path().parent_path() / ".file.redo", std::ios::binary) << log;
    for (const auto& attempt : {std::function<void()>([&] { recover_edit(path()); }), {[&] { edit(); }}}) {
      expect_input_error(attempt, {".file.redo' is the redo log of another file than", "/file'"});
      EXPECT_TRUE(content() == other);
      EXPECT_EQ(files(), 2U) << "the log may be needed where it belongs";
    }
    forget_edit(path());
    EXPECT_EQ(files(), 1U);
  }
}

TEST_F(EditAtOnce, DoesNotBelieveALogThatSaysNotOfWhichFileItIs) {
  std::string log = "REDOLOG1" + std::string(16, '\0');
  const auto sum = xxh3(log.data(), log.size());
  log.append(reinterpret_cast<const char*>(&sum), sizeof(sum));
  std::ofstream(path().parent_path() / ".file.redo", std::ios::binary) << log;
  expect_input_error([&] { recover_edit(path()); }, {".file.redo", "earlier version"});
  EXPECT_TRUE(content() == before);
}

TEST_F(EditAtOnce, IgnoresALogThatWasNotWrittenToItsEnd) {
  std::ofstream(path().parent_path() / ".file.redo") << "REDOLOG1 and then the disk was full";
  recover_edit(path());
  EXPECT_TRUE(content() == before);
  EXPECT_EQ(files(), 1U);
}

// What is edited lies in memory, which nothing but another run gives back.
TEST_F(EditAtOnce, RemovesFromMemoryWhatAKilledProcessHasLeft) {
  const pid_t child = fork();
  if (child == 0) {
    edit_at_once(path(), left_alone, [&](const std::filesystem::path& copy) {
      std::ofstream(path().parent_path() / "where") << copy.string();
      kill(getpid(), SIGKILL);
    });
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  const std::filesystem::path left = content_of(path().parent_path() / "where");
  EXPECT_TRUE(std::filesystem::exists(left));
  make_at_once(path().parent_path() / "one", [&](const std::filesystem::path& made) {
    EXPECT_FALSE(std::filesystem::exists(left));
    std::ofstream(made) << "one";
    make_at_once(path().parent_path() / "other", [](const auto& in_memory) { std::ofstream(in_memory) << "other"; });
    EXPECT_TRUE(std::filesystem::exists(made)) << "it was taken for a leftover";
  });
}

TEST(MakeAtOnce, WritesWhatWasMadeWithItsHoles) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  std::string expected(50'000'000, '\0');
  expected.replace(3, 5, "first");
  expected.replace(40'000'000, 4, "last");
  make_at_once(folder / "file", [&](const std::filesystem::path& made) {
    std::ofstream out(made, std::ios::binary);
    out.seekp(3);
    out << "first";
    out.seekp(40'000'000);
    out << "last";
    out.close();
    std::filesystem::resize_file(made, 50'000'000);
  });
  EXPECT_TRUE(content_of(folder / "file") == expected);
  EXPECT_THROW(make_at_once(folder / "file", [](const auto& made) { std::ofstream(made) << "other"; }), RunError);
}

TEST_F(EditAtOnce, NeedsNoLogToRecoverNothing) {
  recover_edit(path());
  EXPECT_TRUE(content() == before);
}

}  // namespace
}  // namespace hessian_mpi::system
