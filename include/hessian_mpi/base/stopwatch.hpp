#pragma once
/// Wall time of the steps of a run, and of what recurs in it. No dependencies.

#include <chrono>
#include <utility>

namespace hessian_mpi {

class Stopwatch {
 public:
  /// Seconds since construction or the last lap.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - last_).count(); }
  /// The same, and begins the next lap.
  double lap() {
    const auto now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

/// Says once in so many seconds that it is time.
class PeriodicTimer {
 public:
  explicit PeriodicTimer(double seconds) : seconds_(seconds) {}
  bool is_due() {
    if (watch_.seconds() < seconds_) return false;
    watch_.lap();
    return true;
  }

 private:
  double seconds_;
  Stopwatch watch_;
};

}  // namespace hessian_mpi
