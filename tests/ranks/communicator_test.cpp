#include "hessian_mpi/ranks/communicator.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace hessian_mpi::ranks {
namespace {

// The agreed error of a collective action; a test failure and an empty one where there is none.
template <class Action>
AgreedError agreed_error(const Action& action) {
  try {
    action();
  } catch (const AgreedError& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown on this rank";
  return {ExitCode::complete, ""};
}

std::int64_t rank_from_mpi() {
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int size_from_mpi() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

// Each rank has two messages for each other one: its number so many times, and then another number.
TEST(Communicator, BringsMessagesFromWhereTheyLieToWhereTheyGo) {
  const auto world = Communicator::world();
  constexpr std::size_t longest = 300000;  // more than goes at once
  const std::vector<char> own(longest, static_cast<char>(world.rank() + 1));
  const char other = static_cast<char>(100 + world.rank());
  std::vector<std::vector<char>> received(static_cast<std::size_t>(world.size()));
  std::vector<Communicator::Outgoing> outgoing;
  std::vector<Communicator::Incoming> incoming;
  const auto length = [&](int from, int to) { return static_cast<std::int64_t>(longest) / (1 + from + 2 * to); };
  for (int rank = 0; rank < world.size(); ++rank) {
    if (rank == world.rank()) continue;
    outgoing.push_back({rank, own.data(), length(world.rank(), rank)});
    outgoing.push_back({rank, &other, 1});
    auto& from_rank = received[static_cast<std::size_t>(rank)];
    const auto count = length(rank, world.rank());
    from_rank.resize(static_cast<std::size_t>(count) + 1);
    incoming.push_back({rank, from_rank.data(), count});
    incoming.push_back({rank, from_rank.data() + count, 1});
  }
  world.exchange(outgoing, incoming);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (rank == world.rank()) continue;
    std::vector<char> expected(static_cast<std::size_t>(length(rank, world.rank())), static_cast<char>(rank + 1));
    expected.push_back(static_cast<char>(100 + rank));
    EXPECT_EQ(received[static_cast<std::size_t>(rank)], expected) << "from " << rank;
  }
}

TEST(Communicator, OfTheWorldKnowsRanksAndHost) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.rank(), rank_from_mpi());
  EXPECT_EQ(world.size(), size_from_mpi());
  EXPECT_EQ(world.is_root(), rank_from_mpi() == 0);
  std::array<char, 256> host{};
  ASSERT_EQ(gethostname(host.data(), host.size()), 0);
  EXPECT_EQ(world.host(), host.data());
}

TEST(Communicator, CountsTheRanksOfItsNode) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.ranks_on_node(), world.size());  // tests run on one machine
  EXPECT_EQ(world.rank_on_node(), world.rank());
}

TEST(Communicator, StaysWholeWhenMoved) {
  auto world = Communicator::world();
  const Communicator moved = std::move(world);
  EXPECT_EQ(moved.rank(), rank_from_mpi());
  EXPECT_FALSE(moved.host().empty());
  EXPECT_EQ(moved.sum(1), size_from_mpi());
}

TEST(Communicator, CanBeMadeAgainAndAgain) {
  for (int i = 0; i < 50; ++i) EXPECT_EQ(Communicator::world().sum(1), size_from_mpi());
}

TEST(Reductions, GiveEveryRankTheSum) {
  const auto world = Communicator::world();
  const std::int64_t large = std::int64_t{1} << 60;
  EXPECT_EQ(world.sum(world.rank() + 1), world.size() * (world.size() + 1) / 2);
  EXPECT_EQ(world.sum(world.is_root() ? large + 1 : 0), large + 1);
}

TEST(Reductions, GiveEveryRankTheSmallest) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.min(10 - world.rank()), 10 - (world.size() - 1));
  EXPECT_EQ(world.min(world.rank() - (std::int64_t{1} << 60)), -(std::int64_t{1} << 60));
}

TEST(Reductions, GiveEveryRankTheLargest) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.max(std::int64_t{world.rank()} - 7), world.size() - 1 - 7);
  EXPECT_EQ(world.max(-0.5 - world.rank()), -0.5);
  EXPECT_EQ(world.max(world.is_root() ? 1e300 : 0.0), 1e300);
}

TEST(Join, KeepsTheOrderOfRanksWithUnevenVectors) {
  const auto world = Communicator::world();
  // Rank r hands in r + 1 numbers: r * 100, r * 100 + 1, ...
  std::vector<std::uint64_t> own;
  for (int i = 0; i <= world.rank(); ++i) own.push_back(static_cast<std::uint64_t>(world.rank() * 100 + i));
  std::vector<std::uint64_t> expected;
  for (int r = 0; r < world.size(); ++r) {
    for (int i = 0; i <= r; ++i) expected.push_back(static_cast<std::uint64_t>(r * 100 + i));
  }
  EXPECT_EQ(world.join(own), expected);
}

TEST(Join, TakesEmptyVectors) {
  const auto world = Communicator::world();
  EXPECT_TRUE(world.join({}).empty());
  const std::vector<std::uint64_t> one{std::numeric_limits<std::uint64_t>::max()};
  const int last = world.size() - 1;
  EXPECT_EQ(world.join(world.rank() == last ? one : std::vector<std::uint64_t>{}), one);
  EXPECT_EQ(world.join(world.is_root() ? one : std::vector<std::uint64_t>{}), one);
}

TEST(FromRoot, GivesEveryRankRootsString) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.from_root(text("rank ", world.rank())), "rank 0");
}

TEST(FromRoot, TakesStringsOfAnyLength) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.from_root(world.is_root() ? "" : "what others had is gone"), "");
  const std::string zeros("a\0b", 3);
  EXPECT_EQ(world.from_root(world.is_root() ? zeros : ""), zeros);
  const std::string large(5'000'000, 'x');
  EXPECT_EQ(world.from_root(world.is_root() ? large : "short"), large);
}

TEST(WaitForAll, ReturnsAfterTheLastHasCome) {
  const auto world = Communicator::world();
  const bool slow = world.rank() == world.size() - 1;
  const auto now = [] { return std::int64_t{std::chrono::steady_clock::now().time_since_epoch().count()}; };
  if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto came = now();
  world.wait_for_all();
  const auto left = now();  // by the clock of the machine, which is the same on all ranks
  EXPECT_GE(left, world.max(came));
}

TEST(Together, ReturnsTheResultOfEveryRank) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.together([&] { return world.rank() * 2; }), world.rank() * 2);
  EXPECT_EQ(world.together([&] { return text("rank ", world.rank()); }), text("rank ", world.rank()));
}

TEST(Together, ReturnsWhatCanOnlyBeMoved) {
  const auto world = Communicator::world();
  const auto result = world.together([&] { return std::make_unique<int>(world.rank()); });
  ASSERT_NE(result, nullptr);
  EXPECT_EQ(*result, world.rank());
}

TEST(Together, RunsAStepWithoutResultOnceOnEveryRank) {
  const auto world = Communicator::world();
  int runs = 0;
  world.together([&] { ++runs; });
  EXPECT_EQ(runs, 1);
}

TEST(Together, ThrowsAnErrorOfOneRankOnAllRanks) {
  const auto world = Communicator::world();
  for (int failing = 0; failing < world.size(); ++failing) {
    const auto error = agreed_error([&] {
      world.together([&] {
        if (world.rank() == failing) throw InputError("'net.pt' is damaged");
      });
    });
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    const std::string message = "'net.pt' is damaged";
    const bool all_failed = world.size() == 1;
    EXPECT_EQ(error.what(), all_failed ? message : text("rank ", failing, " on ", world.host(), ": ", message));
  }
}

TEST(Together, ThrowsTheErrorOfTheFirstRankThatFailed) {
  const auto world = Communicator::world();
  if (world.size() < 3) GTEST_SKIP() << "needs three ranks";
  const auto error = agreed_error([&] {
    world.together([&] {
      if (world.rank() == 1) throw RunError("the first");
      if (world.rank() == 2) throw InputError("a later one, with a longer message");
    });
  });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_EQ(error.what(), text("rank 1 on ", world.host(), ": the first"));
}

TEST(Together, NamesNoRankWhereAllFailed) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] { world.together([] { throw Error(ExitCode::stopped, "the time is over"); }); });
  EXPECT_EQ(error.code(), ExitCode::stopped);
  EXPECT_STREQ(error.what(), "the time is over");
}

TEST(Together, ThrowsWhereAStepHasAResult) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] {
    world.together([&]() -> std::string {
      if (world.rank() == world.size() - 1) throw InputError("no result");
      return "a result";
    });
  });
  EXPECT_EQ(error.code(), ExitCode::bad_input);
}

TEST(Together, TellsThatMemoryIsOut) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] {
    world.together([&] {
      if (world.is_root()) throw std::bad_alloc();
    });
  });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("--memory"), std::string::npos) << error.what();
}

TEST(Together, PassesOnWhatOtherLibrariesThrow) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] { world.together([] { throw std::logic_error("from elsewhere"); }); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_STREQ(error.what(), "from elsewhere");
}

TEST(Together, PassesOnWhatIsNoException) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] { world.together([] { throw 42; }); });
  EXPECT_EQ(error.code(), ExitCode::failed);
}

TEST(Together, PassesOnErrorsThroughLevels) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] {
    world.together([&] {
      world.together([&] {
        if (world.is_root()) throw InputError("deep down");
      });
    });
  });
  EXPECT_EQ(error.code(), ExitCode::bad_input);
  const std::string message = "deep down";
  EXPECT_EQ(error.what(), world.size() == 1 ? message : text("rank 0 on ", world.host(), ": ", message));
}

TEST(Together, LeavesRanksInStepAfterAnError) {
  const auto world = Communicator::world();
  agreed_error([&] {
    world.together([&] {
      if (world.is_root()) throw InputError("once");
    });
  });
  EXPECT_EQ(world.sum(1), world.size());
  EXPECT_EQ(world.together([] { return 3; }), 3);
}

TEST(OnRoot, RunsOnRootAlone) {
  const auto world = Communicator::world();
  int runs = 0;
  world.on_root([&] { ++runs; });
  EXPECT_EQ(world.sum(runs), 1);
  EXPECT_EQ(runs, world.is_root() ? 1 : 0);
}

TEST(OnRoot, TellsThatMemoryIsOut) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] { world.on_root([] { throw std::bad_alloc(); }); });
  EXPECT_EQ(error.code(), ExitCode::failed);
  EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
}

TEST(OnRoot, ThrowsRootsErrorOnAllRanks) {
  const auto world = Communicator::world();
  const auto error = agreed_error([&] { world.on_root([] { throw InputError("the file exists already"); }); });
  EXPECT_EQ(error.code(), ExitCode::bad_input);
  EXPECT_STREQ(error.what(), "the file exists already");  // no other rank could have failed: none is named
}

TEST(MpiLibraryVersion, NamesTheLibraryInOneShortLine) {
  const auto version = mpi_library_version();
  EXPECT_EQ(version.find_first_of("\n,:"), std::string::npos) << version;
#ifdef OPEN_MPI
  EXPECT_TRUE(version.starts_with(text("Open MPI ", OMPI_MAJOR_VERSION, "."))) << version;
#elif defined(MPICH_VERSION)
  EXPECT_EQ(version, "MPICH " MPICH_VERSION);
#else
  EXPECT_NE(version.find_first_of("0123456789"), std::string::npos) << version;
#endif
}

}  // namespace
}  // namespace hessian_mpi::ranks
