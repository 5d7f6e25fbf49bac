#pragma once
/// One program at a time writes an output, on whatever machine. Readers never meet the lock. Not collective; Linux.

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "hessian_mpi/system/posix_file.hpp"

namespace hessian_mpi::system {

/// How a holder on another machine shows that it lives, and how long it is watched before it is taken for dead: longer
/// where the file system says that it has the lock, which those of machines that are gone may have for minutes. Looks
/// are counted, not seconds: a file server that stands still for a while costs one.
struct Heartbeat {
  std::chrono::milliseconds between_beats{5000};
  std::chrono::milliseconds between_looks{500};
  int looks = 60;
  int looks_at_locked = 600;
};

/// A lock file beside the output, `.NAME.lock`, from construction to destruction. The kernel locks it, and lets go of
/// it when the process is gone, however it went: what a killed one leaves is in nobody's way. Not all file systems have
/// locks, or have them between machines, and some keep those of machines that are gone: of a holder on another machine
/// its heartbeat decides, which is the time of the file.
class OutputLock {
 public:
  /// The file is that beside what symlinks lead to. program: who holds it, for others. say: is told where a holder on
  /// another machine has to be watched. Throws InputError where another program has the lock, and names it. Where no
  /// file can be made in the folder nothing is held: what tries to write there says so.
  OutputLock(const std::filesystem::path& output, const std::string& program,
             const std::function<void(const std::string&)>& say, const Heartbeat& heartbeat = {});
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

  /// What the file says of the holder; empty where nothing is held.
  const std::string& words() const { return words_; }
  /// Removes the lock file of a process with these words, which is about to be killed by this one.
  static void remove(const std::filesystem::path& output, const std::string& words);

 private:
  std::optional<PosixFile> file_;
  std::string words_;
  std::jthread heart_;
};

}  // namespace hessian_mpi::system
