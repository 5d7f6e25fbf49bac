#include "hessian_mpi/assemble.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "expect_error.hpp"
#include "hessian_mpi/checksum.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi {
namespace {

constexpr std::int64_t n = 2500;  // more rows than the 1024 blocks a grid has at least: blocks of 2

double number_at(std::int64_t i, std::int64_t j) {
  return std::sin(static_cast<double>(i * n + j));
}

// Rows of a formula; row `broken` throws, row `infinite` ends in infinity.
class FormulaEngine final : public Engine {
 public:
  std::int64_t broken = -1;
  std::int64_t infinite = -1;
  std::int64_t at_once = 1;
  std::uint64_t beside = 0;

  std::string name() const override { return "formula"; }
  std::int64_t rows_at_once() const override { return at_once; }
  std::uint64_t bytes_per_row() const override { return beside; }
  void compute(const Rows& rows, Precision, void* out, const std::function<void(double)>& advance) override {
    auto* number = static_cast<float*>(out);
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      if (i == broken) throw InputError("row 1234 is broken");
      for (std::int64_t j = 0; j < n; ++j) *number++ = static_cast<float>(number_at(i, j));
      if (i == infinite) number[-1] = std::numeric_limits<float>::infinity();
      advance(1);
    }
  }
};

// A file for n x n numbers, and the assembly of it.
class Assembly {
 public:
  Assembly() : folder_(world_) {
    index_.append("weight", {n});
    world_.on_root([&] {
      const std::vector<double> zeros(n, 0.0);
      create_hessian_file(path(), {index_, grid, Precision::float32, Precision::float32, zeros, zeros, {}}, false);
    });
  }
  std::filesystem::path path() const { return folder_ / "hessian.h5"; }

  Assembled run(FormulaEngine& engine, std::int64_t blocks_at_once) const {
    HessianWriter writer(path(), n, Precision::float32, world_);
    std::ostringstream silent;
    Progress progress(ProgressStyle::none, n, 0, 1, silent);
    auto own = assemble(engine, grid, n, Precision::float32, blocks_at_once, writer, world_, progress);
    writer.close();
    return own;
  }

  const BlockGrid grid{n, n * 4};

 private:
  const Communicator world_ = Communicator::world();
  SharedFolder folder_;
  ParameterIndex index_;
};

void expect_formula_in(const Assembly& assembly) {
  const HessianReader reader(assembly.path());
  for (const std::int64_t i : {std::int64_t{0}, n / 3, n / 2 - 1, n / 2, n - 1}) {
    const auto row = reader.tile({static_cast<std::uint64_t>(i), 0, 1, n});
    for (std::int64_t j = 0; j < n; ++j) {
      ASSERT_EQ(row[static_cast<std::size_t>(j)], static_cast<double>(static_cast<float>(number_at(i, j))))
          << i << ", " << j;
    }
  }
}

TEST(Assemble, PutsEveryRowInItsPlaceWithBuffersOfAnySize) {
  for (const std::int64_t blocks_at_once : {1, 7, 10000}) {
    const Assembly assembly;
    FormulaEngine engine;
    assembly.run(engine, blocks_at_once);
    expect_formula_in(assembly);
  }
}

TEST(Assemble, TakesTheChecksumsOfItsBlocksInTheirOrder) {
  const auto world = Communicator::world();
  const Assembly assembly;
  FormulaEngine engine;
  engine.at_once = 5;
  const auto own = assembly.run(engine, 64);
  const auto blocks = blocks_of_rank(assembly.grid, world.rank(), world.size());
  ASSERT_EQ(own.checksums.size(), static_cast<std::size_t>(blocks.count()));
  const HessianReader reader(assembly.path());
  for (const std::int64_t b : {blocks.begin, blocks.end - 1}) {
    const auto bytes = reader.bytes(assembly.grid.block(b), n, Precision::float32);
    EXPECT_EQ(own.checksums[static_cast<std::size_t>(b - blocks.begin)], xxh3(bytes.data(), bytes.size()));
  }
}

TEST(Assemble, ReportsTheLargestNumberAndRowsThatAreNotFinite) {
  const auto world = Communicator::world();
  const Assembly assembly;
  FormulaEngine engine;
  engine.infinite = n - 1;
  const auto own = assembly.run(engine, 64);
  EXPECT_GT(own.largest, 0.99);
  EXPECT_LE(own.largest, 1);
  const bool last = world.rank() == world.size() - 1;
  EXPECT_EQ(own.nonfinite_rows, last ? std::vector<std::int64_t>{n - 1} : std::vector<std::int64_t>{});
}

TEST(Assemble, AnErrorOnOneRankIsThrownOnAll) {
  const Assembly assembly;
  FormulaEngine engine;
  engine.broken = n - 1;
  try {
    assembly.run(engine, 64);
    ADD_FAILURE() << "no error";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::failed);
    EXPECT_NE(std::string(error.what()).find("row 1234 is broken"), std::string::npos) << error.what();
  }
}

TEST(BlocksInMemory, FitTheMemoryWithWhatTheEngineNeedsBeside) {
  const BlockGrid grid(n, n * 4);
  const auto block = static_cast<std::uint64_t>(grid.rows_per_block() * n * 4);
  FormulaEngine engine;
  EXPECT_EQ(blocks_in_memory(engine, grid, n, Precision::float32, 10 * block), 10);
  engine.beside = n * 4;
  EXPECT_EQ(blocks_in_memory(engine, grid, n, Precision::float32, 10 * block), 5);
  expect_input_error([&] { blocks_in_memory(engine, grid, n, Precision::float32, block); },
                     {"--memory", "at least 1M"});
}

TEST(BlocksInMemory, StayBelowWhatOneWriteMayTake) {
  const BlockGrid grid(n, n * 4);
  FormulaEngine engine;
  engine.at_once = 1 << 30;
  const auto blocks = blocks_in_memory(engine, grid, n, Precision::float32, std::uint64_t{1} << 40);
  EXPECT_LE(blocks * grid.rows_per_block() * n * 4, std::int64_t{1} << 30);
}

TEST(Magnitude, IsTheLargestAbsoluteNumber) {
  const std::vector<float> narrow{1, -7.5F, 3, -0.0F};
  EXPECT_EQ(magnitude_of(narrow.data(), 4).largest, 7.5);
  EXPECT_TRUE(magnitude_of(narrow.data(), 4).finite);
  const std::vector<double> wide{1e-300, -3e-310};
  EXPECT_EQ(magnitude_of(wide.data(), 2).largest, 1e-300);
  EXPECT_EQ(magnitude_of(wide.data(), 0).largest, 0);
}

TEST(Magnitude, TellsNumbersThatAreNotFinite) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    const std::vector<double> wide{1, bad, -2};
    EXPECT_FALSE(magnitude_of(wide.data(), 3).finite);
    EXPECT_EQ(magnitude_of(wide.data(), 3).largest, 2);
    const std::vector<float> narrow{1, static_cast<float>(bad), -2};
    EXPECT_FALSE(magnitude_of(narrow.data(), 3).finite);
    EXPECT_EQ(magnitude_of(narrow.data(), 3).largest, 2);
  }
}

}  // namespace
}  // namespace hessian_mpi
