#include "hessian_mpi/system/file_size_limit.hpp"

#include <sys/resource.h>

#include <csignal>
#include <limits>

namespace hessian_mpi::system {

void ignore_file_size_signal() {
  std::signal(SIGXFSZ, SIG_IGN);
}

std::uint64_t largest_file() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0) return std::numeric_limits<std::uint64_t>::max();
  return limit.rlim_cur;  // RLIM_INFINITY is the largest number
}

}  // namespace hessian_mpi::system
