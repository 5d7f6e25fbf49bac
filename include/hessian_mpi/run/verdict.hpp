#pragma once
/// All checks of a written file, and what their figures mean: whether the run is complete.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hessian_mpi/file/block_table.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/load_problem.hpp"

namespace hessian_mpi::run {

struct Verdict {
  file::CheckFigures figures;
  std::vector<std::string> failures;  ///< what makes the file one that is not to be believed
  std::vector<std::string> warnings;  ///< what the user should look at
};

/// A written file and what is known of it in memory, the same on all ranks.
struct WrittenFile {
  const std::filesystem::path& path;
  const matrix::MatrixShape& matrix;
  const std::vector<file::BlockRecord>& records;     ///< one per block
  const std::vector<matrix::SharedBlocks>& written;  ///< blocks of this run, as they were shared
  double largest;                                    ///< largest |H_ij|
};

/// The gradient, zero where it is the L2 term's alone: there are parameters that autograd takes for constants.
std::vector<double> gradient_by_graph(const network::Problem& problem, const network::LossAndGradient& point);

/// Collective. point: loss and gradient as they stand in the file. rows: how many are derived again; 0 turns off all
/// but the reading back of blocks. twin is called on root: in float64 for
/// differences of loss and gradient, in the problem's own precision where rounding is to be measured. between_checks is
/// called on all ranks, to leave by throwing where the job is asked to stop. The same failures on all ranks; warnings
/// on root.
Verdict check_file(const WrittenFile& file, const network::Problem& problem, Matrix matrix,
                   const network::LossAndGradient& point, const MakeTwin& twin, Verify which, int rows,
                   const std::function<void()>& between_checks, const ranks::Communicator& communicator);

}  // namespace hessian_mpi::run
