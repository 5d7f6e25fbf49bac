#include "hessian_mpi/system/output_lock.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/base/timestamp.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::system {
namespace {

constexpr const char* first_line = "lock file of hessian_mpi";

std::filesystem::path lock_of(const std::filesystem::path& output) {
  auto path = target_of(output);  // one lock, by whatever name the file is written
  return path.replace_filename(text('.', path.filename().string(), ".lock"));
}

// --- who holds it, in words: a line each of "name value"

using Words = std::map<std::string, std::string>;

// Of this start of the machine; empty where the kernel does not say.
std::string id_of_boot() {
  std::string id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
  return id;
}

// Those whose numbers mean the same processes.
std::string space_of_processes() {
  struct stat space {};
  ::stat("/proc/self/ns/pid", &space);
  return text(space.st_ino);
}

std::string id_of_job() {
  for (const auto* variable : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "JOB_ID"}) {
    if (const char* id = std::getenv(variable)) return id;
  }
  return "";
}

std::string text_of_this_process(const std::string& program) {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return text(first_line, "\nprogram ", program, "\nprocess ", ::getpid(), "\nhost ", host.data(), "\njob ",
              printable(id_of_job()), "\nsince ", timestamp(), "\nboot ", id_of_boot(), "\nprocesses ",
              space_of_processes(), '\n');
}

Words words_in(const std::string& content) {
  Words words;
  std::istringstream lines(content);
  std::string line;
  for (std::getline(lines, line); std::getline(lines, line);) {
    const auto space = line.find(' ');
    if (space != std::string::npos) words.emplace(line.substr(0, space), printable(line.substr(space + 1)));
  }
  return words;
}

std::string word(const Words& words, const char* name) {
  const auto found = words.find(name);
  return found == words.end() ? "" : found->second;
}

std::string text_of(const Words& holder) {
  if (word(holder, "program").empty()) return "another program";
  const auto job = word(holder, "job");
  return text(word(holder, "program"), ", process ", word(holder, "process"), " on ", word(holder, "host"),
              job.empty() ? "" : text(", job ", job), ", since ", word(holder, "since"));
}

// --- the file

// What a look at it shows. It changes with every beat of its holder, and with its holder.
struct Look {
  ino_t file = 0;
  std::pair<std::time_t, long> beat;
  std::string content;
  bool operator==(const Look& other) const = default;
};

Look look_at(const PosixFile& file) {
  struct stat status {};
  ::fstat(file.descriptor(), &status);
  constexpr std::size_t most = 4096;
  std::string content(most, '\0');
  try {
    content.resize(file.read_some(0, content.data(), most));
  } catch (const RunError&) {
    content.clear();  // removed on another machine meanwhile: the next look shows it
  }
  if (content.find_first_not_of('\0') == std::string::npos) content.clear();  // its words were not on the disk in time
  return {status.st_ino, {status.st_mtim.tv_sec, status.st_mtim.tv_nsec}, content};
}

[[noreturn]] void throw_in_the_way(const std::filesystem::path& path, const std::string& what) {
  throw InputError(text("'", path.string(), "', where the lock of the output has its place, ", what,
                        ": remove it, or name another output"));
}

struct Opened {
  PosixFile file;
  bool made;  // now; else it was there
};

std::optional<Opened> open_existing(const std::filesystem::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return std::nullopt;
  if (!S_ISREG(status.st_mode)) throw_in_the_way(path, "is no regular file");
  if (auto file = PosixFile::open_if_possible(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK)) {
    return Opened{std::move(*file), false};
  }
  if (errno == ENOENT) return std::nullopt;
  throw_in_the_way(path, text("cannot be opened: ", reason(errno)));
}

bool is_for_lack_of_a_folder(int error) {
  return error == EACCES || error == EPERM || error == EROFS || error == ENOENT || error == ENOTDIR;
}

// Nothing where no file can be made there.
std::optional<Opened> open_or_make(const std::filesystem::path& path) {
  constexpr int most_attempts = 100;  // another program makes and removes it meanwhile
  for (int k = 0; k < most_attempts; ++k) {
    if (auto file = PosixFile::open_if_possible(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW)) {
      constexpr mode_t of_everybody = 0666;  // others of a shared folder lock it, too, once this process is dead
      ::fchmod(file->descriptor(), of_everybody);
      return Opened{std::move(*file), true};
    }
    const int error = errno;
    if (is_for_lack_of_a_folder(error)) return std::nullopt;
    if (error != EEXIST) throw RunError(text("'", path.string(), "' could not be made: ", reason(error)));
    if (auto existing = open_existing(path)) return existing;
  }
  throw RunError(text("'", path.string(), "' comes and goes"));
}

enum class Locked { here, elsewhere, not_at_all };

// As long as the file is open, without waiting. Locks of an open file, where the kernel has them: the others go when
// the process closes the file by any descriptor.
Locked try_lock(const PosixFile& file) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  for (const int command : {F_OFD_SETLK, F_SETLK}) {
    int result = 0;
    do {
      result = ::fcntl(file.descriptor(), command, &whole);
    } while (result != 0 && errno == EINTR);
    if (result == 0) return Locked::here;
    if (errno == EAGAIN || errno == EACCES) return Locked::elsewhere;
    if (errno != EINVAL) break;
  }
  return Locked::not_at_all;
}

// A new file is locked for a moment by those who look whether its maker is dead.
Locked lock(const Opened& opened) {
  constexpr int most_attempts = 1000;
  auto locked = try_lock(opened.file);
  for (int k = 0; opened.made && locked == Locked::elsewhere && k < most_attempts; ++k) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    locked = try_lock(opened.file);
  }
  return locked;
}

enum class Holder { alive, dead, unknown };

// Of one kernel the lock says it; without locks, the process itself.
Holder holder_of(const Words& words, Locked locked) {
  const auto boot = word(words, "boot");
  if (boot.empty() || boot != id_of_boot()) return Holder::unknown;
  if (locked == Locked::here) return Holder::dead;
  const auto process = static_cast<pid_t>(std::atol(word(words, "process").c_str()));
  const bool is_gone =
      word(words, "processes") == space_of_processes() && process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
  if (locked == Locked::not_at_all) return is_gone ? Holder::dead : Holder::unknown;
  return is_gone ? Holder::unknown : Holder::alive;  // the next one has just locked what a dead one has left
}

bool is_lock_file(const Look& look) {
  return look.content.starts_with(text(first_line, '\n'));
}

// What a killed process has left. Lock files of other programs are not touched.
void remove_if_left_over(const std::filesystem::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return;
  const auto file = PosixFile::open_if_possible(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return;
  const auto look = look_at(*file);
  if (!is_lock_file(look)) return;
  const auto holder = holder_of(words_in(look.content), try_lock(*file));
  if (holder == Holder::dead && file->is_at(path)) ::unlink(path.c_str());
}

void remove_leftovers_beside(const std::filesystem::path& own) {
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(folder_of(own), ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    const auto name = entry->path().filename();
    if (name.string().front() == '.' && name.extension() == ".lock" && name != own.filename()) {
      remove_if_left_over(entry->path());
    }
  }
}

// The lock file, made and locked; nothing where no file can be made there.
std::optional<PosixFile> take(const std::filesystem::path& output, const std::function<void(const std::string&)>& say,
                              const Heartbeat& heartbeat) {
  const auto path = lock_of(output);
  std::optional<Look> first;
  int looks = 0;
  while (auto opened = open_or_make(path)) {
    const auto locked = lock(*opened);
    if (!opened->file.is_at(path)) continue;  // its holder has removed it
    if (opened->made && locked != Locked::elsewhere) return std::move(opened->file);
    const auto look = look_at(opened->file);
    if (!look.content.empty() && !is_lock_file(look)) throw_in_the_way(path, "is another file");
    const auto words = words_in(look.content);
    const auto holder = holder_of(words, locked);
    if (holder == Holder::alive || (holder == Holder::unknown && first && look != *first)) {
      throw InputError(text("'", output.string(), "' is being written by ", text_of(words),
                            ": wait for its end, or name another file"));
    }
    const int enough = locked == Locked::elsewhere ? heartbeat.looks_at_locked : heartbeat.looks;
    if (holder == Holder::dead || looks >= enough) {
      if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_in_the_way(path, text("is left over: ", reason(errno)));
      continue;
    }
    if (looks == 1 && !words.empty()) {  // it was no change of hands
      const auto seconds = std::chrono::ceil<std::chrono::seconds>(enough * heartbeat.between_looks).count();
      say(text("'", output.string(), "' was being written by ", text_of(words), ": looking for at most ", seconds,
               " s whether it still is"));
    }
    first = look;  // the same as before, if there was one
    ++looks;
    opened.reset();  // and the lock, so that its holder can end, and others look
    std::this_thread::sleep_for(heartbeat.between_looks);
  }
  return std::nullopt;
}

}  // namespace

OutputLock::OutputLock(const std::filesystem::path& output, const std::string& program,
                       const std::function<void(const std::string&)>& say, const Heartbeat& heartbeat)
    : file_(take(output, say, heartbeat)) {
  if (!file_) return;
  words_ = text_of_this_process(program);
  try {
    file_->write(0, words_.data(), words_.size());
  } catch (const RunError&) {  // a full disk: others are kept out all the same, and are not told by whom
  }
  heart_ =
      std::jthread([descriptor = file_->descriptor(), pause = heartbeat.between_beats](const std::stop_token& end) {
        std::mutex mutex;
        std::condition_variable_any ending;
        std::unique_lock waiting(mutex);
        while (!ending.wait_for(waiting, end, pause, [&] { return end.stop_requested(); }))
          ::futimens(descriptor, nullptr);
      });
  remove_leftovers_beside(file_->path());
}

void OutputLock::remove(const std::filesystem::path& output, const std::string& words) {
  const auto path = lock_of(output);
  const auto file = PosixFile::open_if_possible(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (file && look_at(*file).content == words) ::unlink(path.c_str());
}

// It goes while it is locked: whoever has opened it meanwhile finds that the name leads elsewhere.
OutputLock::~OutputLock() {
  if (!file_) return;
  heart_ = {};
  try {
    if (file_->is_at(file_->path())) ::unlink(file_->path().c_str());
  } catch (const RunError&) {  // the file system is gone, and the file with it
  }
}

}  // namespace hessian_mpi::system
