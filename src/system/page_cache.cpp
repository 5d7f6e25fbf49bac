#include "hessian_mpi/system/page_cache.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace hessian_mpi::system {

void forget_pages_of(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  constexpr off_t to_the_end = 0;
  posix_fadvise(descriptor, 0, to_the_end, POSIX_FADV_DONTNEED);
  ::close(descriptor);
}

}  // namespace hessian_mpi::system
