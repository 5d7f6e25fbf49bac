#include "hessian_mpi/run/summary.hpp"

#include <algorithm>

namespace hessian_mpi::run {

double seconds_of_job(const Forecast& f, int ranks) {
  return f.serial + std::max(f.estimate.processing(ranks), f.estimate.writing());
}

}  // namespace hessian_mpi::run
