#pragma once
/// What a job is going to take, told from a sample of its rows, which are computed and thrown away, and from a file
/// that is written beside the output and never gets a name.

#include <cstdint>
#include <filesystem>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

class Engine;
class Problem;
struct LayerPlan;

/// Seconds of the parts of a job, and how they shrink with ranks.
struct Estimate {
  double plain_row = 0;         ///< one row by double-backward; 0 where there is none
  double rows = 0;              ///< of computing all rows of the job on one rank
  double shared = 0;            ///< of the passes that ranks share, on one rank
  double bytes_a_second = 0;    ///< that these ranks write together
  double written_a_second = 0;  ///< bytes that one core writes, as far as it is busy and does not wait for the disk
  std::uint64_t bytes = 0;      ///< of the job's rows
  double columns_a_second = 0;  ///< bytes of rows of one step, as columns of the next, that a rank takes in
  std::uint64_t columns = 0;    ///< bytes of those, on all ranks

  /// Of computing, on so many ranks with a core for each of their threads.
  double computing(int ranks) const {
    return (rows + shared + (columns_a_second > 0 ? static_cast<double>(columns) / columns_a_second : 0)) / ranks;
  }
  /// Of the cores of so many ranks: computing, and what writing takes of them.
  double processing(int ranks) const {
    return computing(ranks) + (written_a_second > 0 ? static_cast<double>(bytes) / written_a_second / ranks : 0);
  }
  /// Of writing, by any number of ranks: the file system is what bounds it.
  double writing() const { return bytes_a_second > 0 ? static_cast<double>(bytes) / bytes_a_second : 0; }
};

/// Collective. Takes some seconds. Every rank takes part in what ranks share; root alone computes the sample.
/// accumulate, memory: as LayerFactors has them. row_by_row: makes the rows of the plan's first step. folder: of the
/// output. Throws RunError where the sample cannot be computed, or a file not written there.
Estimate estimate(const Problem& problem, const LayerPlan& plan, const MatrixShape& matrix, Precision accumulate,
                  std::uint64_t memory, Engine& row_by_row, const std::filesystem::path& folder,
                  const Communicator& communicator);

}  // namespace hessian_mpi
