#include "hessian_mpi/run/assemble_by_layer.hpp"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <memory>
#include <vector>

#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/network/kernels.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/job.hpp"
#include "hessian_mpi/run/load_problem.hpp"
#include "hessian_mpi/run/options.hpp"
#include "hessian_mpi/system/stop.hpp"

namespace hessian_mpi::run {
namespace {

void compute(engines::Engine& engine, const matrix::BlockList& blocks, const matrix::MatrixShape& matrix) {
  std::vector<char> block(static_cast<std::size_t>(matrix.bytes_of_largest_block()));
  for (const auto b : blocks) {
    engine.compute(matrix.grid.block(b), {0, matrix.columns}, matrix.storage, block.data(), [](double) {});
  }
}

// The embedded example: rows of a convolution, then those of a linear layer.
TEST(LayeredAssembly, LooksForAStopBeforeThePassesOfLayers) {
  const auto world = ranks::Communicator::world();
  const char* const words[] = {"hessian_mpi"};
  const auto options = parse_options(1, words);
  const network::DifferentiableKernels kernels(torch::kCPU, 1);
  const network::Problem problem = load_problem(options, options.dtype);
  const Job job = plan_job(options, problem, matrix_of_job(options, problem));
  ASSERT_EQ(job.plan.steps.size(), 3U);  // the first by double-backward has nothing to do
  const auto unfactored = single_rows_engine(job);
  auto assembly = assembly_of(job, all_blocks(job), *unfactored, world);
  const system::StopRequest request;
  const ranks::StopPoint stop(request, world);
  std::vector<file::BlockRecord> nothing(static_cast<std::size_t>(job.matrix.grid.count()));

  constexpr std::uint64_t memory = std::uint64_t{1} << 30;
  assembly.prepare({}, nothing, memory, stop);

  int steps = 0;
  const auto stopped_on_one_rank_after_the_first = [&](engines::Engine& engine, const matrix::SharedBlocks& blocks) {
    world.together([&] { compute(engine, blocks.of_rank(world.rank()), job.matrix); });
    if (++steps == 1 && world.rank() == world.size() - 1) std::raise(SIGUSR1);
    return Assembled();
  };
  try {
    assembly.assemble(stopped_on_one_rank_after_the_first, memory, stop);
    ADD_FAILURE() << "was not stopped";
  } catch (const ranks::AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::stopped);
    EXPECT_STREQ(error.what(), "stopped by SIGUSR1");
  }
  EXPECT_EQ(steps, 1);
}

}  // namespace
}  // namespace hessian_mpi::run
