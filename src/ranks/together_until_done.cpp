#include "hessian_mpi/ranks/together_until_done.hpp"

#include <cstdint>

#include "hessian_mpi/base/stopwatch.hpp"

namespace hessian_mpi::ranks {

void together_until_done(std::size_t count, const std::function<std::size_t(std::size_t)>& take,
                         const std::function<void()>& between, const Communicator& communicator) {
  constexpr double seconds_between_meetings = 1;
  std::size_t done = 0;
  const auto some_rank_has_work = [&] {
    between();
    return communicator.max(static_cast<std::int64_t>(count - done)) > 0;
  };
  while (some_rank_has_work()) {
    communicator.together([&] {
      const Stopwatch watch;
      while (done < count && watch.seconds() < seconds_between_meetings) done += take(done);
    });
  }
}

}  // namespace hessian_mpi::ranks
