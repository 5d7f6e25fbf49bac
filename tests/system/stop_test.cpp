#include "hessian_mpi/system/stop.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>

namespace hessian_mpi::system {
namespace {

TEST(StopRequest, HasNoReasonAtFirst) {
  const StopRequest stop;
  EXPECT_EQ(stop.reason(), 0);
  EXPECT_EQ(stop.reason(1e9), 0) << "without a time limit";
  EXPECT_TRUE(std::isinf(stop.seconds_left()));
}

TEST(StopRequest, IsAskedBySignals) {
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    const StopRequest stop;
    std::raise(signal);
    EXPECT_EQ(stop.reason(), signal);
  }
  const StopRequest next;
  EXPECT_EQ(next.reason(), 0) << "a signal of the time before";
}

TEST(StopRequest, LeavesSignalsAsTheyWereBefore) {
  { const StopRequest stop; }
  struct sigaction action {};
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    sigaction(signal, nullptr, &action);
    EXPECT_EQ(action.sa_handler, SIG_DFL) << signal;
  }
}

TEST(StopRequest, IsAskedByTheTimeThatIsLeft) {
  StopRequest stop;
  stop.set_time_limit(1000);
  EXPECT_EQ(stop.reason(), 0);
  EXPECT_EQ(stop.reason(900), 0);
  EXPECT_EQ(stop.reason(1001), StopRequest::time_is_up);
  EXPECT_NEAR(stop.seconds_left(), 999, 1);
  stop.set_time_limit(0);
  EXPECT_EQ(stop.reason(), StopRequest::time_is_up);
}

// A child process interrupts itself so many times and then ends with exit code 7.
int status_after_interrupts(int count) {
  const pid_t child = fork();
  if (child == 0) {
    const StopRequest stop;
    for (int k = 0; k < count; ++k) std::raise(SIGINT);
    _exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(StopRequest, EndsAtTheSecondInterruptAtOnce) {
  const int once = status_after_interrupts(1);
  EXPECT_TRUE(WIFEXITED(once) && WEXITSTATUS(once) == 7);
  const int twice = status_after_interrupts(2);
  EXPECT_TRUE(WIFSIGNALED(twice) && WTERMSIG(twice) == SIGINT);
}

TEST(TextOfStop, NamesTheReason) {
  EXPECT_EQ(text_of_stop(SIGUSR1), "SIGUSR1");
  EXPECT_EQ(text_of_stop(SIGTERM), "SIGTERM");
  EXPECT_EQ(text_of_stop(SIGINT), "SIGINT");
  EXPECT_EQ(text_of_stop(StopRequest::time_is_up), "the time limit");
}

}  // namespace
}  // namespace hessian_mpi::system
