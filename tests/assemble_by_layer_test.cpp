#include "hessian_mpi/assemble_by_layer.hpp"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <memory>
#include <vector>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/hessian_rows.hpp"
#include "hessian_mpi/job.hpp"
#include "hessian_mpi/load_problem.hpp"
#include "hessian_mpi/options.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/stop.hpp"

namespace hessian_mpi {
namespace {

void compute(Engine& engine, const BlockList& blocks, const MatrixShape& matrix) {
  std::vector<char> block(static_cast<std::size_t>(matrix.bytes_of_largest_block()));
  for (const auto b : blocks) {
    engine.compute(matrix.grid.block(b), {0, matrix.columns}, matrix.storage, block.data(), [](double) {});
  }
}

// The embedded example: plain rows of a convolution, then those of a linear layer from a few passes.
TEST(LayeredAssembly, LooksForAStopBeforeThePassesOfLayers) {
  const auto world = Communicator::world();
  const char* const words[] = {"hessian_mpi"};
  const auto options = parse_options(1, words);
  use_differentiable_kernels();
  const Problem problem = load_problem(options, options.dtype);
  Job job = job_of(options, problem);
  plan_rows(job);
  ASSERT_EQ(job.plan.stages.size(), 1U);
  const auto row_by_row = row_by_row_engine(job);
  auto assembly = assembly_of(job, all_blocks(job), *row_by_row, world);
  const StopRequest stop;
  std::vector<BlockRecord> nothing(static_cast<std::size_t>(job.matrix.grid.count()));
  ASSERT_EQ(assembly.prepare("", nothing, stop), 0);

  int steps = 0;
  const auto stopped_on_one_rank_after_the_first = [&](Engine& engine, const SharedBlocks& blocks) {
    world.together([&] { compute(engine, blocks.of_rank(world.rank()), job.matrix); });
    if (++steps == 1 && world.rank() == world.size() - 1) std::raise(SIGUSR1);
    return Assembled();
  };
  constexpr std::uint64_t memory = std::uint64_t{1} << 30;
  EXPECT_EQ(assembly.assemble(stopped_on_one_rank_after_the_first, memory, stop).stopped, SIGUSR1);
  EXPECT_EQ(steps, 1);
}

}  // namespace
}  // namespace hessian_mpi
