#pragma once
/// What a run is to make, and how: the matrix, the plan of its rows, the engines that make them, the memory they take.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/jacobian_plan.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/assemble_by_layer.hpp"
#include "hessian_mpi/run/options.hpp"
#include "hessian_mpi/run/summary.hpp"

namespace hessian_mpi::run {

/// Options and problem must outlive it.
struct Job {
  const Options& options;
  const network::Problem& problem;
  matrix::MatrixShape matrix;
  layers::LayerPlan plan;
  std::optional<layers::JacobianPlan> jacobian;  ///< where all rows of a matrix J^T A J are products of J
  bool alone = false;  ///< where rows are samples: whether each runs without the others of its batch
};

/// What the job's file is to hold. Throws InputError where --rows names rows that the matrix does not have.
matrix::MatrixShape matrix_of_job(const Options& options, const network::Problem& problem);

/// Not collective; the same on all ranks. Takes derivatives to plan how rows are made.
Job plan_job(const Options& options, const network::Problem& problem, matrix::MatrixShape matrix);

/// What some rows take to be made, relative to others.
Work work_of(const Job& job, const Rows& rows);

/// Of the sums over samples.
Precision accumulation(const Job& job);

/// What makes rows one by one, whatever the plan: double-backward, of J^T A J a row (jacobian_rows.hpp), or of samples
/// (rows_of_samples.hpp).
std::unique_ptr<engines::Engine> single_rows_engine(const Job& job);

/// Collective. What makes the rows of the plan's first step, which are all where no layers are factored: products of J,
/// or rows one by one. between: as JacobianFactors has it.
std::unique_ptr<engines::Engine> unfactored_rows_engine(const Job& job, const ranks::Communicator& world,
                                                        const std::function<void()>& between);

matrix::BlockList all_blocks(const Job& job);

/// Collective. unfactored must outlive it.
LayeredAssembly assembly_of(const Job& job, const matrix::BlockList& blocks, engines::Engine& unfactored,
                            const ranks::Communicator& world);

/// Bytes of a rank: what a run keeps beside its buffers of rows, and what is left for those.
struct Memory {
  std::uint64_t columns = 0;  ///< of earlier steps
  std::uint64_t factors = 0;
  std::int64_t blocks_at_once = 1;
  std::uint64_t lacking = 0;  ///< for factors to be made once
  std::uint64_t most = 0;     ///< that all of this takes
};

/// all: what a rank may use. Throws InputError where it is too little.
Memory memory_for(const Job& job, const LayeredAssembly& assembly, std::uint64_t all);

/// "rows", "layers" or "outputs", as the file has it; a line for each parameter; what a person is told first.
std::string name_of_method(const Job& job);
std::string lines_of_methods(const Job& job);
Announcement announcement(const Job& job, int ranks, int threads);

}  // namespace hessian_mpi::run
