#pragma once
/// Ending before the work is done: a signal, or the time limit, asks; the ranks finish the block at hand and leave.

#include <chrono>
#include <optional>
#include <string>

namespace hessian_mpi::system {

/// Catches SIGUSR1, SIGTERM and SIGINT from construction to destruction; one per process, the first thing in main, so
/// that a signal during the start is not lost. A second SIGINT ends the process at once.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  /// Seconds of wall time since construction within which the process is to end.
  void set_time_limit(std::optional<double> seconds) { limit_ = seconds; }

  /// Infinite without a time limit.
  double seconds_left() const;

  /// Why this rank wants to stop: the number of a signal, time_is_up where less than `needed` seconds are left, else 0.
  /// Ranks agree on the largest.
  int reason(double needed = 0) const;
  static constexpr int time_is_up = 1000;

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  std::optional<double> limit_;
};

/// "SIGUSR1", "the time limit": a reason for a message.
std::string text_of_stop(int reason);

}  // namespace hessian_mpi::system
