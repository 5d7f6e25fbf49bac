#pragma once
/// Wall time of the steps of a run. No dependencies.

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

}  // namespace hessian_mpi
