#include "hessian_mpi/run/assemble.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <limits>
#include <sstream>

#include "expect_error.hpp"
#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::run {
namespace {

constexpr std::int64_t n = 2500;  // more rows than the 1024 blocks a grid has at least: blocks of 2

// That a product on the calling thread would take; 0 where this LibTorch has no MKL.
int threads_of_mkl() {
  using Ask = int (*)();
  const auto ask = reinterpret_cast<Ask>(dlsym(RTLD_DEFAULT, "MKL_Get_Max_Threads"));
  return ask != nullptr ? ask() : 0;
}

double number_at(std::int64_t i, std::int64_t j) {
  return std::sin(static_cast<double>(i * n + j));
}

// Rows of a formula; row `broken` throws, row `infinite` ends in infinity.
class FormulaEngine final : public engines::Engine {
 public:
  std::int64_t broken = -1;
  std::int64_t infinite = -1;
  std::int64_t raises = -1;  // row at which SIGUSR1 comes
  std::int64_t at_once = 1;
  std::vector<Rows> asked;
  int threads = 0;  // of a product in it
  std::uint64_t beside = 0;

  std::string name() const override { return "formula"; }
  std::int64_t rows_at_once() const override { return at_once; }
  std::uint64_t bytes_per_row(std::int64_t) const override { return beside; }
  void compute(const Rows& rows, const Rows&, Precision, void* out,
               const std::function<void(double)>& advance) override {
    asked.push_back(rows);
    threads = threads_of_mkl();
    auto* number = static_cast<float*>(out);
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      if (i == raises) std::raise(SIGUSR1);
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
      file::create_hessian_file(path(), {index_, matrix, Precision::float32, zeros, zeros, {}}, false);
    });
  }
  std::filesystem::path path() const { return folder_ / "hessian.h5"; }

  Assembled run(FormulaEngine& engine, std::int64_t blocks_at_once) {
    file::HessianWriter writer(path(), matrix, world_);
    file::Checkpoint checkpoint(path(), matrix.grid, records, world_);
    std::ostringstream silent;
    cli::Progress progress(ProgressStyle::none, n, 0, 0, 1, silent);
    const system::StopRequest request;
    const auto shared = matrix::shared_evenly(checkpoint.missing(), world_.size());
    Assembled own;
    stopped.clear();
    try {
      own = assemble(engine, {matrix, shared, blocks_at_once}, writer, checkpoint, {request, world_}, world_, progress);
    } catch (const ranks::AgreedError& error) {
      if (!ranks::is_stop(error)) throw;
      stopped = error.what();
    }
    checkpoint.take(writer);
    writer.close();
    records = checkpoint.records();
    return own;
  }

  const matrix::MatrixShape matrix{matrix::BlockGrid(n, n * 4), n, Precision::float32};
  std::vector<file::BlockRecord> records;  // before a run, and after it
  std::string stopped;                     // what a run says of it; empty where it came to its end

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  SharedFolder folder_;
  matrix::ParameterIndex index_;
};

void expect_formula_in(const Assembly& assembly) {
  const file::HessianReader reader(assembly.path());
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
    Assembly assembly;
    FormulaEngine engine;
    assembly.run(engine, blocks_at_once);
    expect_formula_in(assembly);
  }
}

TEST(Assemble, RecordsChecksumAndLargestNumberOfEveryBlock) {
  Assembly assembly;
  FormulaEngine engine;
  engine.at_once = 5;
  assembly.run(engine, 64);
  const auto& grid = assembly.matrix.grid;
  ASSERT_EQ(static_cast<std::int64_t>(assembly.records.size()), grid.count());
  const file::HessianReader reader(assembly.path());
  for (std::int64_t b = 0; b < grid.count(); b += 97) {
    const auto bytes = reader.bytes(grid.block(b), assembly.matrix);
    const auto& record = assembly.records[static_cast<std::size_t>(b)];
    EXPECT_TRUE(record.on_disk);
    EXPECT_EQ(record.checksum, xxh3(bytes.data(), bytes.size()));
    const auto* number = reinterpret_cast<const float*>(bytes.data());
    float largest = 0;
    for (std::size_t k = 0; k < bytes.size() / 4; ++k) largest = std::max(largest, std::abs(number[k]));
    EXPECT_EQ(record.largest, largest);
  }
  const auto in_file = file::read_block_records(assembly.path(), grid);
  for (std::size_t b = 0; b < in_file.size(); ++b) {
    ASSERT_TRUE(in_file[b].on_disk) << b;
    ASSERT_EQ(in_file[b].checksum, assembly.records[b].checksum) << b;
  }
}

TEST(Assemble, ReportsRowsThatAreNotFiniteAndLeavesTheirBlockUnmarked) {
  const auto world = ranks::Communicator::world();
  Assembly assembly;
  FormulaEngine engine;
  engine.infinite = n - 1;
  const auto own = assembly.run(engine, 64);
  const bool last = world.rank() == world.size() - 1;
  EXPECT_EQ(own.nonfinite_rows, last ? std::vector<std::int64_t>{n - 1} : std::vector<std::int64_t>{});
  EXPECT_FALSE(assembly.records.back().on_disk);
  EXPECT_TRUE(assembly.records.front().on_disk);
}

TEST(Assemble, ComputesOnlyWhatIsMissing) {
  Assembly assembly;
  FormulaEngine engine;
  assembly.run(engine, 64);
  for (const std::size_t b : {0U, 1U, 7U, 600U, 601U, 602U, 1249U}) assembly.records[b].on_disk = false;
  engine.asked.clear();
  assembly.run(engine, 64);
  const auto world = ranks::Communicator::world();
  std::int64_t rows = 0;
  for (const auto& asked : engine.asked) rows += asked.count();
  EXPECT_EQ(world.sum(rows), 7 * 2);
  for (const auto& record : assembly.records) EXPECT_TRUE(record.on_disk);
  expect_formula_in(assembly);
}

// The signal reaches one rank alone, in the middle of its rows.
TEST(Assemble, StopsOnAllRanksWithWhatWasComputedOnTheDisk) {
  Assembly assembly;
  FormulaEngine engine;
  engine.raises = n - 20;
  assembly.run(engine, 8);
  EXPECT_EQ(assembly.stopped, "stopped by SIGUSR1");
  const auto count = static_cast<std::ptrdiff_t>(assembly.records.size());
  const auto marked =
      std::count_if(assembly.records.begin(), assembly.records.end(), [](const auto& r) { return r.on_disk; });
  EXPECT_GT(marked, 0);
  EXPECT_LT(marked, count);
  const auto in_file = file::read_block_records(assembly.path(), assembly.matrix.grid);
  for (std::size_t b = 0; b < in_file.size(); ++b) EXPECT_EQ(in_file[b].on_disk, assembly.records[b].on_disk) << b;
  engine.raises = -1;
  assembly.run(engine, 8);
  EXPECT_EQ(assembly.stopped, "");
  expect_formula_in(assembly);
}

TEST(Assemble, AnErrorLosesNothingThatWasWrittenBefore) {
  Assembly assembly;
  FormulaEngine engine;
  engine.broken = n - 1;
  EXPECT_THROW(assembly.run(engine, 8), ranks::AgreedError);
  const auto in_file = file::read_block_records(assembly.path(), assembly.matrix.grid);
  EXPECT_TRUE(in_file.front().on_disk);
  EXPECT_FALSE(in_file.back().on_disk);
  const auto marked = std::count_if(in_file.begin(), in_file.end(), [](const auto& record) { return record.on_disk; });
  EXPECT_GT(marked, static_cast<std::ptrdiff_t>(in_file.size()) / 2);
}

TEST(Assemble, AnErrorOnOneRankIsThrownOnAll) {
  Assembly assembly;
  FormulaEngine engine;
  engine.broken = n - 1;
  try {
    assembly.run(engine, 64);
    ADD_FAILURE() << "no error";
  } catch (const ranks::AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::failed);
    EXPECT_NE(std::string(error.what()).find("row 1234 is broken"), std::string::npos) << error.what();
  }
}

// Rows are made on another thread than the one that is told: bytes would depend on the cores that a rank may use.
TEST(Assemble, ComputesWithTheThreadsThatWereSet) {
  if (threads_of_mkl() == 0) GTEST_SKIP() << "this LibTorch has no MKL";
  const network::DifferentiableKernels kernels(c10::kCPU, 3);
  ASSERT_EQ(threads_of_mkl(), 3);
  Assembly assembly;
  FormulaEngine engine;
  assembly.run(engine, 1);
  EXPECT_EQ(engine.threads, 3);
}

TEST(BlocksInMemory, FitTheMemoryWithWhatTheEngineNeedsBeside) {
  const matrix::MatrixShape matrix{matrix::BlockGrid(n, n * 4), n, Precision::float32};
  const auto block = static_cast<std::uint64_t>(matrix.grid.rows_per_block() * n * 4);
  FormulaEngine engine;
  EXPECT_EQ(blocks_in_memory(engine, matrix, 10 * block), 5);
  engine.beside = n * 4;
  EXPECT_EQ(blocks_in_memory(engine, matrix, 9 * block), 3);
  expect_input_error([&] { blocks_in_memory(engine, matrix, block); }, {"--memory", "at least 1M"});
}

TEST(BlocksInMemory, StayBelowWhatOneWriteMayTake) {
  const matrix::MatrixShape matrix{matrix::BlockGrid(n, n * 4), n, Precision::float32};
  FormulaEngine engine;
  engine.at_once = 1 << 30;
  const auto blocks = blocks_in_memory(engine, matrix, std::uint64_t{1} << 40);
  EXPECT_LE(blocks * matrix.grid.rows_per_block() * n * 4, std::int64_t{1} << 30);
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
}  // namespace hessian_mpi::run
