#pragma once
/// Where the ranks of a job look whether any of them is asked to stop, and leave together.

#include <cstdint>

#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/stop.hpp"

namespace hessian_mpi::ranks {

/// One for a job, handed to whatever takes long. Where a rank is asked to stop, by a signal or the time limit, all
/// ranks throw AgreedError with ExitCode::stopped and "stopped by SIGUSR1".
class StopPoint {
 public:
  /// Both must outlive the object.
  StopPoint(const system::StopRequest& request, const Communicator& communicator)
      : request_(request), communicator_(communicator) {}

  /// Collective. Asks all ranks, and throws on all where one is asked to stop.
  void operator()() const;

  /// Not collective. Why this rank wants to stop, if less than `needed` seconds are left or otherwise; 0 where it does
  /// not. The largest of all ranks is for heed(): for those who exchange more than this.
  std::int64_t reason(double needed = 0) const { return request_.reason(needed); }
  double seconds_left() const { return request_.seconds_left(); }

  /// agreed: the same on all ranks. Throws unless it is 0.
  static void heed(std::int64_t agreed);

 private:
  const system::StopRequest& request_;
  const Communicator& communicator_;
};

/// Whether an error says that all ranks were to stop.
inline bool is_stop(const AgreedError& error) {
  return error.code() == ExitCode::stopped;
}

}  // namespace hessian_mpi::ranks
