#include "hessian_mpi/ranks/stop_point.hpp"

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::ranks {

void StopPoint::operator()() const {
  heed(communicator_.max(reason()));
}

void StopPoint::heed(std::int64_t agreed) {
  if (agreed == 0) return;
  throw AgreedError(ExitCode::stopped, text("stopped by ", system::text_of_stop(static_cast<int>(agreed))));
}

}  // namespace hessian_mpi::ranks
