#include "hessian_mpi/system/stop.hpp"

#include <array>
#include <atomic>
#include <csignal>
#include <limits>

namespace hessian_mpi::system {
namespace {

constexpr std::array<int, 3> caught_signals{SIGUSR1, SIGTERM, SIGINT};

// A signal handler reaches nothing but what is static.
std::atomic<int> last_signal{0};
std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free);

void note(int signal) {
  last_signal = signal;
  if (signal != SIGINT || ++interrupts < 2) return;
  std::signal(SIGINT, SIG_DFL);
  std::raise(SIGINT);
}

void set_action(void (*action)(int)) {
  struct sigaction how {};
  how.sa_handler = action;
  how.sa_flags = SA_RESTART;  // system calls of libraries that know nothing of this go on
  sigemptyset(&how.sa_mask);
  for (const int signal : caught_signals) sigaction(signal, &how, nullptr);
}

}  // namespace

StopRequest::StopRequest() {
  last_signal = 0;
  interrupts = 0;
  set_action(note);
}

StopRequest::~StopRequest() {
  set_action(SIG_DFL);
}

double StopRequest::seconds_left() const {
  if (!limit_) return std::numeric_limits<double>::infinity();
  return *limit_ - std::chrono::duration<double>(Clock::now() - start_).count();
}

int StopRequest::reason(double needed) const {
  const int signal = last_signal;
  if (signal != 0) return signal;
  return seconds_left() < needed ? time_is_up : 0;
}

std::string text_of_stop(int reason) {
  switch (reason) {
    case SIGUSR1:
      return "SIGUSR1";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    default:
      return "the time limit";
  }
}

}  // namespace hessian_mpi::system
