#include "hessian_mpi/file/checkpoint.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::file {
namespace {

constexpr std::int64_t n = 100;  // blocks of one row

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    index_.append("weight", {n});
    world_.on_root([&] {
      const std::vector<double> zeros(n, 0.0);
      create_hessian_file(path(), {index_, matrix(), Precision::float32, zeros, zeros, {}}, false);
    });
  }
  const ranks::Communicator& world() const { return world_; }
  std::filesystem::path path() const { return folder_ / "hessian.h5"; }
  const matrix::MatrixShape& matrix() const { return matrix_; }
  const matrix::BlockGrid& grid() const { return matrix_.grid; }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
  const matrix::MatrixShape matrix_{matrix::BlockGrid(n, n * 4), n, Precision::float32};
  matrix::ParameterIndex index_;
};

BlockRecord record_of(std::int64_t block) {
  return {static_cast<std::uint64_t>(1000 + block), static_cast<double>(block) / 8, true};
}

// Every rank adds the blocks that leave its rank when divided by the number of ranks.
void add_every_other(Checkpoint& checkpoint, std::int64_t begin, std::int64_t end, const ranks::Communicator& world) {
  for (auto b = begin; b < end; ++b) {
    if (b % world.size() == world.rank()) checkpoint.add(b, record_of(b));
  }
}

TEST_F(CheckpointTest, MissesEveryBlockOfANewFile) {
  const Checkpoint checkpoint(path(), grid(), {}, world());
  EXPECT_EQ(checkpoint.missing().size(), 100U);
}

TEST_F(CheckpointTest, MarksWhatAnyRankAddedInTheFileAndOnAllRanks) {
  Checkpoint checkpoint(path(), grid(), {}, world());
  HessianWriter writer(path(), matrix(), world());
  add_every_other(checkpoint, 20, 50, world());
  EXPECT_EQ(checkpoint.missing().size(), 100U) << "marked before it is on the disk";
  checkpoint.take(writer);
  add_every_other(checkpoint, 60, 61, world());
  checkpoint.take(writer);
  writer.close();
  const auto in_file = read_block_records(path(), grid());
  for (std::int64_t b = 0; b < n; ++b) {
    const auto k = static_cast<std::size_t>(b);
    const bool added = (20 <= b && b < 50) || b == 60;
    ASSERT_EQ(in_file[k].on_disk, added) << b;
    ASSERT_EQ(checkpoint.records()[k].on_disk, added) << b;
    if (!added) continue;
    EXPECT_EQ(in_file[k].checksum, record_of(b).checksum);
    EXPECT_EQ(checkpoint.records()[k].largest, record_of(b).largest);
  }
}

TEST_F(CheckpointTest, GoesOnFromTheRecordsThatRootHasRead) {
  std::vector<BlockRecord> records(100);
  records[7] = record_of(7);
  records[99] = record_of(99);
  const Checkpoint checkpoint(path(), grid(), world().is_root() ? records : std::vector<BlockRecord>(), world());
  EXPECT_EQ(checkpoint.missing().size(), 98U);
  EXPECT_EQ(checkpoint.records()[99].checksum, record_of(99).checksum);
}

TEST_F(CheckpointTest, ForgetsBlocksInTheFileAsWell) {
  Checkpoint checkpoint(path(), grid(), {}, world());
  HessianWriter writer(path(), matrix(), world());
  add_every_other(checkpoint, 0, 10, world());
  checkpoint.take(writer);
  checkpoint.forget({2, 3, 9});
  writer.close();
  EXPECT_EQ(checkpoint.missing().size(), 93U);
  const auto in_file = read_block_records(path(), grid());
  for (std::size_t b = 0; b < 10; ++b) EXPECT_EQ(in_file[b].on_disk, b != 2 && b != 3 && b != 9) << b;
}

TEST_F(CheckpointTest, IsDueFiftyTimesAsLateAsItTook) {
  Checkpoint checkpoint(path(), grid(), {}, world());
  EXPECT_FALSE(checkpoint.is_due());
  HessianWriter writer(path(), matrix(), world());
  checkpoint.take(writer);
  const auto took = std::chrono::duration<double>(checkpoint.seconds());
  EXPECT_FALSE(checkpoint.is_due());
  std::this_thread::sleep_for(50 * took);
  EXPECT_TRUE(checkpoint.is_due());
  writer.close();
}

}  // namespace
}  // namespace hessian_mpi::file
