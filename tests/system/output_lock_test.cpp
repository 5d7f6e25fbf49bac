#include "hessian_mpi/system/output_lock.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "content_of.hpp"
#include "expect_error.hpp"
#include "shared_folder.hpp"

namespace {

// What the file system of this test makes of locks: 0, or the error of one that has none.
int error_of_locks = 0;
// What happens between the opening of a file and its next lock.
std::function<void()> before_lock;

}  // namespace

// In the place of the C library's, for all of this program.
extern "C" int fcntl(int file, int command, ...) {
  std::va_list rest;
  va_start(rest, command);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  const bool locks = command == F_OFD_SETLK || command == F_SETLK;
  if (locks && before_lock) std::exchange(before_lock, nullptr)();
  if (error_of_locks != 0 && locks) {
    errno = error_of_locks;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fcntl, file, command, argument));
}

namespace hessian_mpi::system {
namespace {

using std::chrono::milliseconds;

// Of tests that have to see that nobody beats, and of those that must not wait for it.
constexpr Heartbeat brief{milliseconds(1), milliseconds(2), 40, 600};
constexpr Heartbeat endless{milliseconds(1), milliseconds(1), 1'000'000, 1'000'000};

class OutputLocks : public testing::Test {
 protected:
  void TearDown() override { error_of_locks = 0; }
  std::filesystem::path path(const std::string& name) const { return folder_ / name; }
  std::filesystem::path output() const { return path("h.h5"); }
  std::filesystem::path lock_file() const { return path(".h.h5.lock"); }

  std::unique_ptr<OutputLock> lock(const Heartbeat& heartbeat = endless) const { return lock_of(output(), heartbeat); }
  static std::unique_ptr<OutputLock> lock_of(const std::filesystem::path& path, const Heartbeat& heartbeat = endless) {
    return std::make_unique<OutputLock>(
        path, "program", [](const std::string& words) { ADD_FAILURE() << "it was waited for: " << words; }, heartbeat);
  }
  // Returns what is said of a holder that is watched, at which beat() is called.
  std::string watch_and_lock(const std::function<void()>& beat = [] {}) const {
    std::string said;
    const OutputLock taken(
        output(), "program", [&](const std::string& words) { said = words, beat(); }, brief);
    return said;
  }
  void leave(const std::string& content) const { std::ofstream(lock_file()) << content; }
  void expect_free() const {
    EXPECT_FALSE(std::filesystem::exists(lock_file()));
    EXPECT_NO_THROW(lock());
  }
  // A process that is killed as it holds the lock.
  void kill_a_holder() const {
    EXPECT_EQ(signal_of([&] {
                const auto held = lock();
                ::raise(SIGKILL);
              }),
              SIGKILL);
    ASSERT_TRUE(std::filesystem::exists(lock_file()));
  }
  // The signal that ends another process.
  static int signal_of(const std::function<void()>& action) {
    const pid_t child = fork();
    if (child == 0) {
      action();
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }
  // Processes that take the lock as often as they can: whether two of them ever had it at once.
  void expect_one_at_a_time() const {
    std::vector<pid_t> children(3);
    for (auto& child : children) {
      child = fork();
      if (child == 0) ::_exit(take_turns());
    }
    for (const auto child : children) {
      int status = 0;
      ::waitpid(child, &status, 0);
      EXPECT_EQ(WEXITSTATUS(status), 0) << "1: another one had it too; 2: another error";
    }
    EXPECT_FALSE(std::filesystem::exists(lock_file()));
  }

 private:
  int take_turns() const {
    for (int turns = 0; turns < 100;) {
      try {
        const OutputLock held(
            output(), "program", [](const std::string&) {}, endless);
        const PosixFile proof(path("proof"), O_RDWR | O_CREAT);
        if (::flock(proof.descriptor(), LOCK_EX | LOCK_NB) != 0) return 1;
        ++turns;
      } catch (const InputError&) {  // another one has it
      } catch (const std::exception&) {
        return 2;
      }
    }
    return 0;
  }
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

bool lock_whole(const PosixFile& file) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  return ::fcntl(file.descriptor(), F_OFD_SETLK, &whole) == 0;
}

constexpr const char* of_another_machine =
    "lock file of hessian_mpi\nprogram hessian_convert\nprocess 17\nhost node42\njob 4711\nsince 2026-01-02T03:04:05Z\n"
    "boot 00000000-0000-0000-0000-000000000000\nprocesses 1\n";

TEST_F(OutputLocks, AreHeldByOneAndNamedToOthers) {
  ::setenv("SLURM_JOB_ID", "4711", 1);
  auto held = lock();
  ::unsetenv("SLURM_JOB_ID");
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const auto holder = text("program, process ", ::getpid(), " on ", host.data(), ", job 4711, since 20");
  expect_input_error([&] { lock(); }, {"h.h5' is being written by " + holder, "wait for its end"});
  EXPECT_NO_THROW(lock_of(path("other.h5")));
  held.reset();
  expect_free();
  EXPECT_TRUE(std::filesystem::is_empty(path("")));
}

TEST_F(OutputLocks, AreBesideWhatLinksLeadTo) {
  std::filesystem::create_directory(path("folder"));
  std::filesystem::create_symlink("../h.h5", path("folder/link"));
  const auto held = lock_of(path("folder/link"));
  EXPECT_TRUE(std::filesystem::exists(lock_file()));
  expect_input_error([&] { lock(); }, {"is being written by"});
}

TEST_F(OutputLocks, AreNobodysOnceTheProcessIsKilled) {
  kill_a_holder();
  EXPECT_NO_THROW(lock());
  expect_free();
}

// The next one locks the file, too, before it takes it away.
TEST_F(OutputLocks, ThatChangeHandsAreWaitedFor) {
  kill_a_holder();
  std::optional<PosixFile> next(std::in_place, lock_file(), O_RDWR);
  ASSERT_TRUE(lock_whole(*next));
  EXPECT_NE(watch_and_lock([&] { next.reset(); }), "");
  expect_free();
}

TEST_F(OutputLocks, OfAnEndedHolderAreNotTakenForThoseOfTheNext) {
  auto first = lock();
  std::unique_ptr<OutputLock> second;
  before_lock = [&] {
    first.reset();
    second = lock();
  };
  expect_input_error([&] { lock(); }, {"is being written by"});
  second.reset();
  expect_free();
}

TEST_F(OutputLocks, OfKilledProcessesAreRemovedByTheNextBesideThem) {
  kill_a_holder();
  const auto others = path(".others.lock");  // of another program
  std::ofstream(others) << "words";
  std::filesystem::copy_file(lock_file(), path("h.h5.lock"));
  const auto living = lock_of(path("living.h5"));
  EXPECT_FALSE(std::filesystem::exists(lock_file()));
  lock_of(path("another.h5"));
  for (const auto* name : {".others.lock", "h.h5.lock", ".living.h5.lock"}) {
    EXPECT_TRUE(std::filesystem::exists(path(name))) << name;
  }
  expect_input_error([&] { lock_of(path("living.h5")); }, {"is being written by"});
}

TEST_F(OutputLocks, OfAnotherUserAreSeenAndReplaced) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  std::filesystem::permissions(path(""), std::filesystem::perms::all);
  const auto as_nobody = [&](const std::function<void()>& action) {
    constexpr uid_t nobody = 65534;
    const auto as_told = [&] { return ::setgid(nobody) == 0 && ::setuid(nobody) == 0; };
    return signal_of([&] {
      try {
        if (as_told()) action();
      } catch (const InputError&) {
        ::raise(SIGALRM);
      }
    });
  };
  const auto usual = ::umask(0077);
  auto held = lock();
  EXPECT_EQ(as_nobody([&] { lock(); }), SIGALRM);
  held.reset();
  kill_a_holder();
  ::umask(usual);
  EXPECT_EQ(as_nobody([&] {
              lock();
              ::raise(SIGUSR2);
            }),
            SIGUSR2);
  expect_free();
}

TEST_F(OutputLocks, AreOfOneAtATime) {
  expect_one_at_a_time();
}

TEST_F(OutputLocks, OfAnotherMachineAreTakenWhenNobodyBeats) {
  leave(of_another_machine);
  EXPECT_EQ(watch_and_lock(),
            text("'", output().string(), "' was being written by hessian_convert, process 17 on node42, ",
                 "job 4711, since 2026-01-02T03:04:05Z: looking for at most 1 s whether it still is"));
  expect_free();
}

TEST_F(OutputLocks, OfAnotherMachineAreLeftToWhoBeats) {
  leave(of_another_machine);
  const auto beat = [&] { ::utimensat(AT_FDCWD, lock_file().c_str(), nullptr, 0); };
  expect_input_error([&] { watch_and_lock(beat); },
                     {"h.h5' is being written by hessian_convert, process 17 on node42"});
  EXPECT_EQ(content_of(lock_file()), of_another_machine);
  // Another one has it meanwhile.
  const auto other = [&] {
    std::filesystem::remove(lock_file());
    leave(
        std::string(of_another_machine).replace(text("lock file of hessian_mpi\nprogram hessian_").size(), 7, "join"));
  };
  expect_input_error([&] { watch_and_lock(other); }, {"is being written by hessian_join"});
}

// Servers keep the locks of a machine that has died for a while, or until it is back.
TEST_F(OutputLocks, OfADeadMachineAreTakenFromTheServer) {
  leave(of_another_machine);
  const PosixFile kept(lock_file(), O_RDWR);
  ASSERT_TRUE(lock_whole(kept));
  const auto beat = [&] { ::futimens(kept.descriptor(), nullptr); };
  expect_input_error([&] { watch_and_lock(beat); }, {"is being written by hessian_convert"});
  EXPECT_NE(watch_and_lock().find("looking for at most 2 s"), std::string::npos);
  expect_free();
}

TEST_F(OutputLocks, WithoutWordsAreWatchedInSilence) {
  for (const auto& content : {std::string(), std::string(100, '\0')}) {  // as a crash of the machine leaves it
    leave(content);
    EXPECT_EQ(watch_and_lock(), "");
    expect_free();
  }
  leave("");
  const PosixFile kept(lock_file(), O_RDWR);
  ASSERT_TRUE(lock_whole(kept));
  std::jthread beating([&](const std::stop_token& end) {
    while (!end.stop_requested()) ::futimens(kept.descriptor(), nullptr);
  });
  expect_input_error([&] { lock(); }, {"is being written by another program"});
}

TEST_F(OutputLocks, BeatOnFileSystemsWithoutLocks) {
  for (const int error : {ENOLCK, ENOSYS, EOPNOTSUPP}) {
    error_of_locks = error;
    const auto held = lock();
    const auto watch = [&] {
      OutputLock(
          output(), "program", [](const std::string&) {}, endless);
    };
    expect_input_error(watch, {"is being written by program, process"});
  }
  expect_free();
  kill_a_holder();
  EXPECT_NO_THROW(lock());
  expect_free();
  expect_one_at_a_time();
}

TEST_F(OutputLocks, AreNotMadeOfWhatLiesInTheirPlace) {
  const auto expect_refused = [&](const std::string& what) {
    expect_input_error([&] { lock(); },
                       {".h.h5.lock', where the lock of the output has its place, " + what, "remove it"});
    std::filesystem::remove(lock_file());
  };
  std::filesystem::create_directory(lock_file());
  expect_refused("is no regular file");
  ASSERT_EQ(::mkfifo(lock_file().c_str(), 0600), 0);
  expect_refused("is no regular file");
  std::filesystem::create_symlink("elsewhere", lock_file());
  expect_refused("is no regular file");
  leave("somebody's notes");
  std::filesystem::create_hard_link(lock_file(), path("notes"));
  expect_refused("is another file");
  EXPECT_EQ(std::filesystem::file_size(path("notes")), 16U);
}

TEST_F(OutputLocks, AreNotHeldWhereNoFileCanBeMade) {
  EXPECT_NO_THROW(lock_of(path("none/h.h5")));
  EXPECT_NO_THROW(lock_of("/proc/h.h5"));
  std::ofstream(output()) << "a file, not a folder";
  EXPECT_NO_THROW(lock_of(output() / "h.h5"));
}

}  // namespace
}  // namespace hessian_mpi::system
