// Jobs that are killed, stopped, out of time or out of disk, and faults of one rank: each leaves a file that is gone on
// with, on another number of ranks, to the bytes of a run that was never interrupted.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <ostream>
#include <random>
#include <thread>

#include "program.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

// The same network on few samples, or on so many that there is time to interrupt.
enum class Length { brief, slow };

Words job(Length length, const Words& options) {
  const auto usage = models() / "usage";
  return Words{"--model",   usage / "slow.pt",
               "--data",    usage / (length == Length::slow ? "slow_data.h5" : "brief_data.h5"),
               "--output",  "result.h5",
               "--threads", "1",
               "--check",   "2",
               "--method",  "rows"} +
         options;
}

Words slow_job(const Words& options = {}) {
  return job(Length::slow, options);
}

std::filesystem::path undisturbed_file(Length length) {
  return std::filesystem::path(UNDISTURBED_JOBS) / (length == Length::slow ? "slow.h5" : "brief.h5");
}

// The first test of this file, which all others compare with what it makes.
TEST(UndisturbedJobs, ComeToTheirEnd) {
  std::filesystem::create_directories(UNDISTURBED_JOBS);
  for (const auto length : {Length::slow, Length::brief}) {
    const Folder folder;
    const auto finished = run_program(2, job(length, {}), folder.path());
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
    std::filesystem::copy_file(folder / "result.h5", undisturbed_file(length),
                               std::filesystem::copy_options::overwrite_existing);
  }
}

// The matrix of a run that nobody has interrupted.
const std::string& undisturbed_bytes(Length length = Length::slow) {
  static std::map<Length, std::string> bytes;
  auto& found = bytes[length];
  if (found.empty()) found = StoredFile(undisturbed_file(length)).bytes("/hessian");
  return found;
}

// The file of a job that has ended early opens and says so; nothing that it marks is wrong.
void expect_unfinished_file(const Folder& folder, Length length = Length::slow) {
  const StoredFile file(folder / "result.h5");
  EXPECT_EQ(file.attribute_integer("/", "complete"), 0);
  const auto bytes = file.bytes("/hessian");
  const auto marks = file.checksums("/blocks/mark");
  const auto begin = file.integers("/blocks/begin");
  const auto end = file.integers("/blocks/end");
  const auto& undisturbed = undisturbed_bytes(length);
  const auto row_bytes = undisturbed.size() / file.shape("/hessian")[0];
  for (std::size_t b = 0; b < marks.size(); ++b) {
    if (marks[b] == 0) continue;
    const auto first = static_cast<std::size_t>(begin[b]) * row_bytes;
    const auto count = static_cast<std::size_t>(end[b] - begin[b]) * row_bytes;
    ASSERT_EQ(bytes.compare(first, count, undisturbed, first, count), 0) << "block " << b;
  }
}

std::size_t marked_blocks(const Folder& folder) {
  const auto marks = StoredFile(folder / "result.h5").checksums("/blocks/mark");
  return static_cast<std::size_t>(std::count_if(marks.begin(), marks.end(), [](auto mark) { return mark != 0; }));
}

void expect_resumed_to_the_same_bytes(const Folder& folder, int ranks, const Words& options = {},
                                      Length length = Length::slow) {
  const auto finished = run_program(ranks, job(length, {"--resume"}) + options, folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  const StoredFile file(folder / "result.h5");
  EXPECT_EQ(file.attribute_integer("/", "complete"), 1);
  EXPECT_TRUE(file.bytes("/hessian") == undisturbed_bytes(length)) << "other bytes than without the interruption";
}

bool is_alive(int process) {
  std::ifstream in("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  return std::getline(in, line) && line.find(") Z") == std::string::npos;
}

void wait_until_gone(const std::vector<int>& processes) {
  const auto deadline = Clock::now() + seconds(60);
  for (const int process : processes) {
    while (is_alive(process) && Clock::now() < deadline) std::this_thread::sleep_for(milliseconds(20));
    EXPECT_FALSE(is_alive(process)) << "a rank outlived its job";
  }
}

// Waits for the file and a number of marked blocks in it.
void wait_for_marks(const Folder& folder, RunningCommand& job, std::size_t count) {
  while (!job.has_ended()) {
    std::this_thread::sleep_for(milliseconds(50));
    if (std::filesystem::exists(folder / "result.h5") && marked_blocks(folder) >= count) return;
  }
  FAIL() << "the job ended before it had marked " << count << " blocks";
}

struct Fault {
  const char* call;
  int at;
  int error;
  int rank;
  Length length = Length::brief;
  friend std::ostream& operator<<(std::ostream& out, const Fault& fault) {
    return out << fault.call << "_" << fault.at << "_on_rank_" << fault.rank;
  }
};

// A file system as it may be: see fault.cpp.
Words preloaded(const Fault& fault, const Folder& folder, const std::string& file) {
  return {std::string("LD_PRELOAD=") + FAULT_LIBRARY,    "FAULT_CALL=" + std::string(fault.call),
          "FAULT_AT=" + std::to_string(fault.at),        "FAULT_RANK=" + std::to_string(fault.rank),
          "FAULT_ERROR=" + std::to_string(fault.error),  "FAULT_FILE=" + file,
          "FAULT_MARK=" + (folder / "happened").string()};
}

// The slow job with pauses of rank 0: its marks come long before its end, however fast the machine is.
Words slow_job_with_pauses(int ranks, const Folder& folder, const Words& options = {}) {
  return launch(ranks, slow_job(options), preloaded({"posix_memalign", 3000, 0, 0}, folder, "result.h5"));
}

// --- killed

enum class Victim { one_rank, all_ranks, mpirun };

void kill_job(const RunningCommand& job, Victim victim, std::mt19937& random) {
  const auto ranks = job.children();
  if (victim == Victim::mpirun || ranks.empty()) {
    kill(job.process(), SIGKILL);
  } else if (victim == Victim::one_rank) {
    kill(ranks[random() % ranks.size()], SIGKILL);
  } else {
    for (const int rank : ranks) kill(rank, SIGKILL);
  }
}

// Fewer than the 50 of a thorough run (HESSIAN_MPI_KILLS=50): each victim early and late.
int number_of_kills() {
  const char* wanted = std::getenv("HESSIAN_MPI_KILLS");
  return wanted == nullptr ? 6 : std::atoi(wanted);
}

TEST(Killed, AtRandomMomentsGoesOnToTheSameBytes) {
  std::mt19937 random(20260611);
  const auto begun = Clock::now();
  {
    const Folder folder;
    ASSERT_EQ(run_command(slow_job_with_pauses(2, folder), folder.path(), seconds(120)).exit_code, 0);
  }
  // From the start of mpirun to somewhat beyond the end of the job, a moment in each of so many equal parts.
  const double part = 1.1 * std::chrono::duration<double>(Clock::now() - begun).count() / number_of_kills();
  std::uniform_real_distribution<double> within_part(0, part);
  int interrupted = 0;
  int with_marks = 0;
  for (int k = 0; k < number_of_kills(); ++k) {
    const auto victim = static_cast<Victim>(k % 3);
    const double after = k * part + within_part(random);
    SCOPED_TRACE("kill " + std::to_string(k) + " after " + std::to_string(after) + " s");
    const Folder folder;
    std::vector<int> ranks;
    {
      RunningCommand job(slow_job_with_pauses(1 + k % 4, folder), folder.path());
      std::this_thread::sleep_for(std::chrono::duration<double>(after));
      if (!job.has_ended()) {
        ranks = job.children();
        kill_job(job, victim, random);
      }
      EXPECT_NE(job.wait(seconds(60)).exit_code, 75);
    }
    wait_until_gone(ranks);
    if (std::filesystem::exists(folder / "result.h5") &&
        StoredFile(folder / "result.h5").attribute_integer("/", "complete") == 0) {
      ++interrupted;
      expect_unfinished_file(folder);
      with_marks += marked_blocks(folder) > 0 ? 1 : 0;
    }
    expect_resumed_to_the_same_bytes(folder, 1 + (k + 1) % 4);
  }
  EXPECT_GT(interrupted, 0);
  EXPECT_GT(with_marks, 0) << "no kill came late enough to test anything";
}

// --- stopped

void expect_stopped(const Finished& finished, const Folder& folder, const std::string& reason) {
  EXPECT_EQ(finished.exit_code, 75) << finished.errors;
  const auto errors = without_notices_of_mpirun(finished.errors);
  EXPECT_NE(errors.find("hessian_mpi: stopped by " + reason), std::string::npos) << errors;
  EXPECT_NE(errors.find("--resume"), std::string::npos) << errors;
  EXPECT_EQ(errors.find("error"), std::string::npos) << errors;
  expect_unfinished_file(folder);
}

TEST(Stopped, BySigusr1ToMpirun) {
  const Folder folder;
  RunningCommand job(slow_job_with_pauses(3, folder), folder.path());
  wait_for_marks(folder, job, 1);
  kill(job.process(), SIGUSR1);
  expect_stopped(job.wait(seconds(60)), folder, "SIGUSR1");
  const auto before = marked_blocks(folder);
  expect_resumed_to_the_same_bytes(folder, 2);
  EXPECT_EQ(StoredFile(folder / "result.h5").attribute_integer("/", "blocks_resumed"),
            static_cast<std::int64_t>(before));
}

TEST(Stopped, BySignalsToOneRankAlone) {
  for (const auto& [signal, name] : {std::pair{SIGUSR1, "SIGUSR1"}, {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}}) {
    const Folder folder;
    RunningCommand job(slow_job_with_pauses(3, folder), folder.path());
    wait_for_marks(folder, job, 1);
    kill(job.children().back(), signal);
    expect_stopped(job.wait(seconds(60)), folder, name);
    expect_resumed_to_the_same_bytes(folder, 4);
  }
}

// mpirun hands a SIGTERM on and kills a second later; its own exit code is 1.
TEST(Stopped, BySigtermToMpirunWithinItsSecond) {
  const Folder folder;
  RunningCommand job(slow_job_with_pauses(2, folder), folder.path());
  wait_for_marks(folder, job, 1);
  const auto before = marked_blocks(folder);
  kill(job.process(), SIGTERM);
  const auto ranks = job.children();
  EXPECT_NE(job.wait(seconds(60)).exit_code, 0);
  wait_until_gone(ranks);
  expect_unfinished_file(folder);
  EXPECT_GE(marked_blocks(folder), before);
  expect_resumed_to_the_same_bytes(folder, 3);
}

TEST(Stopped, BeforeTheFirstRowLeavesNoFileAndIsBegunByResume) {
  const Folder folder;
  const auto finished = run_program(2, slow_job({"--time-limit", "0"}), folder.path());
  EXPECT_EQ(finished.exit_code, 75) << finished.errors;
  EXPECT_NE(finished.errors.find("stopped by the time limit"), std::string::npos) << finished.errors;
  EXPECT_FALSE(std::filesystem::exists(folder / "result.h5"));
  expect_resumed_to_the_same_bytes(folder, 2);
}

TEST(Stopped, InTimeByTheTimeLimitAgainAndAgain) {
  const Folder folder;
  const auto begun = Clock::now();
  ASSERT_EQ(run_command(slow_job_with_pauses(1, folder), folder.path(), seconds(120)).exit_code, 0);
  const double undisturbed = std::chrono::duration<double>(Clock::now() - begun).count();
  std::filesystem::remove(folder / "result.h5");
  // Longer than the start of the program and what it leaves for its end, shorter than the whole.
  const auto limit = std::to_string(static_cast<int>(1.5 + 0.6 * undisturbed));
  std::size_t marked = 0;
  int stopped = 0;
  Finished finished;
  for (int run = 0; run < 20 && finished.exit_code != 0; ++run) {
    finished =
        run_command(slow_job_with_pauses(1, folder, {"--resume", "--time-limit", limit}), folder.path(), seconds(120));
    if (finished.exit_code == 0) break;
    ASSERT_EQ(finished.exit_code, 75) << finished.errors;
    ++stopped;
    if (!std::filesystem::exists(folder / "result.h5")) continue;
    EXPECT_GE(marked_blocks(folder), marked);
    marked = marked_blocks(folder);
  }
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_GT(stopped, 0) << "the limit never came";
  EXPECT_TRUE(StoredFile(folder / "result.h5").bytes("/hessian") == undisturbed_bytes());
}

// --- gone on with

class Resumed : public testing::Test {
 protected:
  // A job that was stopped in the middle.
  static void SetUpTestSuite() {
    stopped.emplace();
    RunningCommand job(slow_job_with_pauses(2, *stopped), stopped->path());
    wait_for_marks(*stopped, job, 20);
    kill(job.process(), SIGUSR1);
    ASSERT_EQ(job.wait(seconds(60)).exit_code, 75);
  }
  static void TearDownTestSuite() { stopped.reset(); }
  void SetUp() override { std::filesystem::copy_file(*stopped / "result.h5", folder / "result.h5"); }

  void expect_refused(const Words& arguments, const std::vector<std::string>& words) {
    const auto before = content_of(folder / "result.h5");
    const auto finished = run_program(2, arguments, folder.path());
    EXPECT_EQ(finished.exit_code, 2) << finished.errors;
    for (const auto& word : words) EXPECT_NE(finished.errors.find(word), std::string::npos) << finished.errors;
    EXPECT_TRUE(content_of(folder / "result.h5") == before) << "the file was changed";
  }
  // Replaces a number in the first marked row.
  void damage_a_marked_block() {
    const auto marks = StoredFile(folder / "result.h5").checksums("/blocks/mark");
    const auto block = std::find_if(marks.begin(), marks.end(), [](auto mark) { return mark != 0; }) - marks.begin();
    const auto row = StoredFile(folder / "result.h5").integers("/blocks/begin")[static_cast<std::size_t>(block)];
    const auto row_bytes = undisturbed_bytes().size() / StoredFile(folder / "result.h5").shape("/hessian")[0];
    const auto offset = StoredFile(folder / "result.h5").offset("/hessian") + static_cast<std::size_t>(row) * row_bytes;
    std::fstream file(folder / "result.h5", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write("damage!!", 8);
  }
  const Folder folder;

 private:
  static inline std::optional<Folder> stopped;
};

TEST_F(Resumed, IsRefusedForAnotherJob) {
  expect_refused(slow_job({"--resume", "--reduction", "sum"}),
                 {"result.h5", "reduction: 'mean' in the file, 'sum' now"});
  expect_refused(slow_job({"--resume", "--parameters", "*.bias"}), {"parameter 0: ", "weight", "bias"});
  expect_refused(slow_job({"--resume", "--dtype", "float64"}),
                 {"dtype: 'float32' in the file, 'float64' now", "storage"});
  expect_refused(slow_job({"--resume", "--l2", "0.01"}), {"l2: 0 in the file, 0.01 now"});
  expect_refused(slow_job({"--resume", "--loss-option", "label_smoothing=0.1"}),
                 {"loss_options: none in the file, 'label_smoothing=0.1' now"});
  expect_refused(slow_job({"--resume", "--batch-size", "500"}), {"batch_size: 9000 in the file, 500 now"});
  expect_refused(slow_job({"--resume", "--rows", "0:700"}), {"rows: 0:1445 in the file, 0:700 now"});
  const auto usage = models() / "usage";
  expect_refused({"--resume", "--model", usage / "good.pt", "--data", usage / "data.h5", "--output", "result.h5"},
                 {"model_sha256", "data_sha256", "samples: 9000 in the file, 5 now", "another job"});
  expect_refused(slow_job(), {"result.h5", "exists already"});
}

TEST_F(Resumed, ReadsBackWhatEarlierRunsWroteWhereAsked) {
  damage_a_marked_block();
  const auto finished = run_program(3, slow_job({"--resume", "--verify", "all"}), folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.errors.find("1 of "), std::string::npos) << finished.errors;
  EXPECT_NE(finished.errors.find("computed again"), std::string::npos) << finished.errors;
  EXPECT_TRUE(StoredFile(folder / "result.h5").bytes("/hessian") == undisturbed_bytes());
}

TEST_F(Resumed, MendsACompleteFileWhereAsked) {
  expect_resumed_to_the_same_bytes(folder, 2);
  const auto untouched = content_of(folder / "result.h5");
  const auto again = run_program(2, slow_job({"--resume"}), folder.path());
  EXPECT_EQ(again.exit_code, 0) << again.errors;
  EXPECT_NE(again.output.find("complete already"), std::string::npos) << again.output;
  EXPECT_TRUE(content_of(folder / "result.h5") == untouched);
  damage_a_marked_block();
  expect_resumed_to_the_same_bytes(folder, 2, {"--verify", "all"});
}

TEST_F(Resumed, SaysThatATruncatedFileIsDamaged) {
  std::filesystem::resize_file(folder / "result.h5", std::filesystem::file_size(folder / "result.h5") / 2);
  expect_refused(slow_job({"--resume"}), {"result.h5", "damaged", "truncated", "--overwrite"});
}

// As `cp --sparse`, or a copy that broke off into a file of full length, leaves it.
TEST_F(Resumed, FindsRowsThatACopyLeftOut) {
  const auto offset = StoredFile(folder / "result.h5").offset("/hessian");
  std::fstream file(folder / "result.h5", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset));
  file << std::string(undisturbed_bytes().size(), '\0');
  file.close();
  expect_resumed_to_the_same_bytes(folder, 2, {"--verify", "all"});
}

// --- faults of one rank

// Runs the job on three ranks with the fault; true if it happened.
bool run_with(const Fault& fault, const Folder& folder, const std::string& file) {
  const auto start = Clock::now();
  RunningCommand running(launch(3, job(fault.length, {}), preloaded(fault, folder, file)), folder.path());
  const auto finished = running.wait(seconds(120));
  if (!std::filesystem::remove(folder / "happened")) {
    EXPECT_EQ(finished.exit_code, 0) << finished.errors;
    return false;
  }
  EXPECT_LT(Clock::now() - start, seconds(100));
  const auto errors = without_notices_of_mpirun(finished.errors);
  EXPECT_TRUE(finished.exit_code == 1 || finished.exit_code == 2) << finished.exit_code << errors;
  const auto message = errors.find("hessian_mpi: error: ");
  EXPECT_NE(message, std::string::npos) << errors;
  EXPECT_EQ(errors.find("hessian_mpi: error: ", message + 1), std::string::npos) << errors;
  return true;
}

class Faults : public testing::TestWithParam<Fault> {};

TEST_P(Faults, EndTheJobOnAllRanksAndLoseNothing) {
  const Folder folder;
  const bool of_model = std::string(GetParam().call) == "open";
  ASSERT_TRUE(run_with(GetParam(), folder, of_model ? "slow.pt" : "result.h5")) << "there was no such call to fail";
  // Where only the last sync fails the file says already that it is complete; --resume repeats what was not synced.
  const bool last_sync = std::string(GetParam().call) == "fsync" && GetParam().at == 3;
  if (std::filesystem::exists(folder / "result.h5") && !last_sync) expect_unfinished_file(folder, GetParam().length);
  expect_resumed_to_the_same_bytes(folder, 2, {}, GetParam().length);
}

// On the first, a middle and the last rank.
std::vector<Fault> faults_of_any_rank() {
  std::vector<Fault> faults;
  for (const int rank : {0, 1, 2}) {
    faults.push_back({"open", 1, EIO, rank});                       // loading
    faults.push_back({"posix_memalign", 60, ENOMEM, rank});         // loading, deriving
    faults.push_back({"posix_memalign", 3000, ENOMEM, rank});       // computing
    faults.push_back({"pwrite", rank == 0 ? 5 : 1, ENOSPC, rank});  // writing rows: root has made the file before
    faults.push_back({"sync_file_range", 3, EIO, rank});
    faults.push_back({"pread", 20, EIO, rank});  // checks
  }
  return faults;
}

// What only root does: making the file, marking, finishing.
std::vector<Fault> faults_of_root() {
  return {{"pwrite", 1, ENOSPC, 0},
          {"pwrite", 3, ENOSPC, 0},
          {"fallocate", 1, ENOSPC, 0},
          {"rename", 1, EACCES, 0},
          {"pwrite", 10, EDQUOT, 0},
          {"fdatasync", 1, EIO, 0},
          {"fdatasync", 3, EIO, 0, Length::slow},
          {"fsync", 1, EIO, 0},
          {"fsync", 2, EIO, 0},
          {"fsync", 3, EIO, 0}};
}

INSTANTIATE_TEST_SUITE_P(InEveryPhase, Faults, testing::ValuesIn(faults_of_any_rank()),
                         testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(OfTheFile, Faults, testing::ValuesIn(faults_of_root()), testing::PrintToStringParamName());

TEST(Fault, OfOneRankIsToldWithItsRankAndHost) {
  const Folder folder;
  const auto command = launch(3, job(Length::brief, {}), preloaded({"posix_memalign", 3000, ENOMEM, 1}, folder, ""));
  const auto finished = run_command(command, folder.path(), seconds(120));
  EXPECT_EQ(finished.exit_code, 1);
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const std::string source = std::string("rank 1 on ") + host.data() + ": ";
  EXPECT_NE(finished.errors.find(source), std::string::npos) << finished.errors;
  EXPECT_NE(finished.errors.find("memory"), std::string::npos) << finished.errors;
}

// --- the redo log, which a kill can leave beside a file

const Fault before_the_log_counts{"fsync", 1, -SIGKILL, 0};
const Fault before_the_log_goes{"unlink", 2, -SIGKILL, 0};  // a new file removes the log of an earlier one
const Fault before_the_first_mark{"sync_file_range", 1, -SIGKILL, 0};
const Fault after_the_first_mark{"fdatasync", 1, -SIGKILL, 0};  // of a file that has taken another one's name

void kill_by(const Fault& fault, const Folder& folder, const std::string& file, const Words& options = {}) {
  const auto command = launch(2, job(Length::brief, options), preloaded(fault, folder, file));
  const auto finished = run_command(command, folder.path(), seconds(120));
  EXPECT_NE(finished.exit_code, 0);
  ASSERT_TRUE(std::filesystem::remove(folder / "happened")) << "there was no such call: " << finished.errors;
}

TEST(Fault, BetweenWritingTheRedoLogAndRemovingItTouchesNoLaterFileOfThatName) {
  const Folder folder;
  for (const auto& fault : {before_the_log_counts, before_the_log_goes}) {
    for (const auto& options : {Words{"--overwrite", "--seed", "5"}, Words{"--overwrite"}, Words{}}) {
      std::filesystem::remove(folder / "result.h5");
      kill_by(fault, folder, ".redo");
      ASSERT_TRUE(std::filesystem::exists(folder / ".result.h5.redo")) << fault;
      if (options.empty()) std::filesystem::remove(folder / "result.h5");
      if (options.empty()) {
        kill_by(before_the_first_mark, folder, "result.h5");
      } else {
        kill_by(after_the_first_mark, folder, "/result.h5", options);
      }
      EXPECT_EQ(marked_blocks(folder) == 0, options.empty());
      const bool other_seed = options.size() > 1;
      expect_resumed_to_the_same_bytes(folder, 2, other_seed ? Words{"--seed", "5"} : Words{}, Length::brief);
    }
  }
}

TEST(Fault, BeforeTheFirstMarkLeavesTheFileThatWasToBeReplaced) {
  const Folder folder;
  ASSERT_EQ(run_program(1, job(Length::brief, {}), folder.path()).exit_code, 0);
  const auto before = content_of(folder / "result.h5");
  const Words other_job{"--overwrite", "--seed", "5"};
  kill_by(before_the_first_mark, folder, "result.h5", other_job);
  EXPECT_TRUE(content_of(folder / "result.h5") == before);
  const auto command =
      launch(2, job(Length::brief, other_job), preloaded({before_the_first_mark.call, 1, EIO, 0}, folder, "result.h5"));
  const auto failed = run_command(command, folder.path(), seconds(120));
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_NE(failed.errors.find("'result.h5' is left as it was"), std::string::npos) << failed.errors;
  EXPECT_EQ(failed.errors.find("--resume"), std::string::npos) << failed.errors;
  const auto stopped = run_program(1, job(Length::brief, other_job + Words{"--time-limit", "0"}), folder.path());
  EXPECT_EQ(stopped.exit_code, 75);
  EXPECT_NE(stopped.errors.find("begin again"), std::string::npos) << stopped.errors;
  std::filesystem::remove(folder / "happened");
  EXPECT_TRUE(content_of(folder / "result.h5") == before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "something was left";
}

TEST(Fault, LeavesARedoLogThatGoesWithItsFileAlone) {
  const Folder folder;
  kill_by(before_the_log_counts, folder, ".redo");
  std::filesystem::create_directory(folder / "moved");
  for (const auto* name : {"result.h5", ".result.h5.redo"}) {
    std::filesystem::rename(folder / name, folder / "moved" / name);
  }
  kill_by(before_the_first_mark, folder, "result.h5");
  std::filesystem::copy_file(folder / "moved" / ".result.h5.redo", folder / ".result.h5.redo");
  const auto begun = content_of(folder / "result.h5");
  const auto refused = run_program(2, job(Length::brief, {"--resume"}), folder.path());
  EXPECT_EQ(refused.exit_code, 2) << refused.errors;
  EXPECT_NE(refused.errors.find("'.result.h5.redo' is the redo log of another file"), std::string::npos)
      << refused.errors;
  EXPECT_TRUE(content_of(folder / "result.h5") == begun);
  std::filesystem::remove(folder / ".result.h5.redo");
  expect_resumed_to_the_same_bytes(folder, 2, {}, Length::brief);

  const auto repaired = run_program(1, job(Length::brief, {"--resume"}), folder / "moved");
  EXPECT_EQ(repaired.exit_code, 0) << repaired.errors;
  EXPECT_NE(repaired.output.find("complete already"), std::string::npos) << repaired.output;
  EXPECT_FALSE(std::filesystem::exists(folder / "moved" / ".result.h5.redo"));
}

// --- another file under the name of one that is being written

TEST(Replaced, FilesGetNothingOfTheRunThatLosesItsOwn) {
  const auto& other = undisturbed_file(Length::brief);
  const auto by_rename = [&](const Folder& folder) {
    std::filesystem::copy_file(other, folder / "other.h5");
    std::filesystem::rename(folder / "other.h5", folder / "result.h5");
  };
  const auto away_and_back = [&](const Folder& folder) {
    std::filesystem::rename(folder / "result.h5", folder / "moved.h5");
    std::filesystem::copy_file(folder / "moved.h5", folder / "result.h5");
  };
  for (const auto& replace : {std::function<void(const Folder&)>(by_rename), {away_and_back}}) {
    const Folder folder;
    RunningCommand job(launch(2, slow_job()), folder.path());
    wait_for_marks(folder, job, 1);
    replace(folder);
    const auto there = content_of(folder / "result.h5");
    const auto finished = job.wait(seconds(120));
    EXPECT_EQ(finished.exit_code, 1) << finished.errors;
    EXPECT_NE(finished.errors.find("'result.h5' is no longer the file that this run writes"), std::string::npos)
        << finished.errors;
    EXPECT_TRUE(content_of(folder / "result.h5") == there);
  }
}

// --- a full disk

// A file system of its own of so many bytes; none where the user may not mount one.
class SmallDisk {
 public:
  explicit SmallDisk(std::size_t bytes) {
    mounted_ = ::mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool is_mounted() const { return mounted_; }
  const Folder& folder() const { return folder_; }
  // Leaves no room for others.
  void fill() const {
    std::ofstream filler(folder_ / "filler", std::ios::binary);
    const std::string chunk(1 << 16, 'x');
    while (filler.write(chunk.data(), static_cast<std::streamsize>(chunk.size()))) filler.flush();
  }
  void empty() const { std::filesystem::remove(folder_ / "filler"); }

 private:
  Folder folder_;
  bool mounted_ = false;
};

constexpr std::size_t roomy = 64 << 20;

TEST(FullDisk, IsFoundBeforeTheFirstRow) {
  const SmallDisk disk(6 << 20);
  if (!disk.is_mounted()) GTEST_SKIP() << "only root can mount a small disk";
  const auto finished = run_program(2, slow_job(), disk.folder().path());
  EXPECT_EQ(finished.exit_code, 2) << finished.errors;
  EXPECT_NE(finished.errors.find("no room"), std::string::npos) << finished.errors;
  EXPECT_TRUE(std::filesystem::is_empty(disk.folder().path()));
}

// All rows have their space; a few pages for the figures of the end do not.
TEST(FullDisk, MeanwhileCostsAJobThatHasItsSpaceNoRow) {
  const SmallDisk disk(roomy);
  if (!disk.is_mounted()) GTEST_SKIP() << "only root can mount a small disk";
  RunningCommand job(launch(2, slow_job()), disk.folder().path());
  wait_for_marks(disk.folder(), job, 1);
  disk.fill();
  const auto finished = job.wait(seconds(120));
  EXPECT_EQ(finished.exit_code, 1) << finished.errors;
  EXPECT_NE(finished.errors.find("No space left on device"), std::string::npos) << finished.errors;
  EXPECT_NE(finished.errors.find("--resume"), std::string::npos) << finished.errors;
  EXPECT_TRUE(StoredFile(disk.folder() / "result.h5").bytes("/hessian") == undisturbed_bytes());
  EXPECT_EQ(marked_blocks(disk.folder()), 1445U);
  disk.empty();
  expect_resumed_to_the_same_bytes(disk.folder(), 3);
}

// File systems that cannot take space in advance, as NFS before 4.2, fill up in the middle.
TEST(FullDisk, InTheMiddleEndsTheJobWhichGoesOnWhenThereIsRoom) {
  const SmallDisk disk(roomy);
  if (!disk.is_mounted()) GTEST_SKIP() << "only root can mount a small disk";
  const Folder marks;
  const auto no_space_in_advance = preloaded({"fallocate", 1, EOPNOTSUPP, 0}, marks, "result.h5");
  {
    RunningCommand job(launch(3, slow_job(), no_space_in_advance), disk.folder().path());
    wait_for_marks(disk.folder(), job, 1);
    disk.fill();
    const auto finished = job.wait(seconds(120));
    EXPECT_EQ(finished.exit_code, 1) << finished.errors;
    EXPECT_NE(finished.errors.find("hessian_mpi: error: "), std::string::npos) << finished.errors;
    EXPECT_NE(finished.errors.find("--resume"), std::string::npos) << finished.errors;
  }
  expect_unfinished_file(disk.folder());
  EXPECT_GT(marked_blocks(disk.folder()), 0U);
  disk.empty();
  expect_resumed_to_the_same_bytes(disk.folder(), 2);
}

}  // namespace
}  // namespace end_to_end
