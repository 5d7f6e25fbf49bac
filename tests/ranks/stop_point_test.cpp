#include "hessian_mpi/ranks/stop_point.hpp"

#include <gtest/gtest.h>

#include <csignal>

namespace hessian_mpi::ranks {
namespace {

TEST(StopPoint, LetsPassWhereNoRankIsAsked) {
  const auto world = Communicator::world();
  const system::StopRequest request;
  const StopPoint stop(request, world);
  EXPECT_NO_THROW(stop());
  EXPECT_EQ(stop.reason(), 0);
}

TEST(StopPoint, ThrowsOnAllRanksWhereOneIsAsked) {
  const auto world = Communicator::world();
  const system::StopRequest request;
  const StopPoint stop(request, world);
  if (world.rank() == world.size() - 1) std::raise(SIGUSR1);
  try {
    stop();
    ADD_FAILURE() << "let pass";
  } catch (const AgreedError& error) {
    EXPECT_TRUE(is_stop(error));
    EXPECT_STREQ(error.what(), "stopped by SIGUSR1");
  }
}

TEST(StopPoint, ThrowsWhereTheTimeIsUp) {
  const auto world = Communicator::world();
  system::StopRequest request;
  request.set_time_limit(0);
  try {
    StopPoint(request, world)();
    ADD_FAILURE() << "let pass";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "stopped by the time limit");
  }
}

}  // namespace
}  // namespace hessian_mpi::ranks
