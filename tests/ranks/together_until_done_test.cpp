#include "hessian_mpi/ranks/together_until_done.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::ranks {
namespace {

TEST(TogetherUntilDone, DoesAllPiecesInOrderHoweverManyARankHas) {
  const auto world = Communicator::world();
  const auto count = static_cast<std::size_t>(5 * world.rank());
  std::vector<std::size_t> places;
  const auto take_two = [&](std::size_t place) {
    places.push_back(place);
    return std::min<std::size_t>(2, count - place);
  };
  int meetings = 0;
  together_until_done(
      count, take_two, [&] { ++meetings; }, world);
  std::vector<std::size_t> expected;
  for (std::size_t place = 0; place < count; place += 2) expected.push_back(place);
  EXPECT_EQ(places, expected);
  EXPECT_GE(meetings, 1);
  EXPECT_EQ(world.max(std::int64_t{meetings}), meetings);
}

TEST(TogetherUntilDone, DoesNothingWhereItIsToStop) {
  const auto world = Communicator::world();
  int taken = 0;
  const auto take = [&](std::size_t) -> std::size_t { return ++taken; };
  EXPECT_THROW(together_until_done(
                   3, take, [] { throw AgreedError(ExitCode::stopped, "stopped"); }, world),
               AgreedError);
  EXPECT_EQ(taken, 0);
}

TEST(TogetherUntilDone, EndsOnAllRanksWhereOneFails) {
  const auto world = Communicator::world();
  const auto take = [&](std::size_t) -> std::size_t {
    if (world.rank() == world.size() - 1) throw RunError("the last rank");
    return 1;
  };
  EXPECT_THROW(together_until_done(
                   2, take, [] {}, world),
               AgreedError);
}

}  // namespace
}  // namespace hessian_mpi::ranks
