#pragma once
/// Where a matrix comes from: the attributes that let its owner, or --resume, tell one job from another.

#include <cstdint>
#include <string>

#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi::network {
class Problem;
}

namespace hessian_mpi::run {

/// How the rows are made: "rows", "layers" or "outputs", for each parameter in words, in which precision sums are
/// taken, and what was done in another way than PyTorch does it, so that second derivatives are right.
struct MethodOfRows {
  std::string method;
  std::string of_parameters;  ///< a line for each
  Precision accumulate = Precision::float32;
  std::string cures;  ///< a line for each
};

/// Attributes known before the first row. Not collective; reads the model and data files once for their SHA-256.
file::Attributes initial_attributes(const Options& options, const network::Problem& problem, const MethodOfRows& method,
                                    double loss, int ranks, int threads);

/// Those among them that say what is in the files which the options name. Not collective; reads all of these.
file::Attributes attributes_of_inputs(const Options& options);

/// The run that brought the file to its end; earlier ones may have computed blocks of it.
struct FinishingRun {
  int ranks = 1;
  std::string command_line;
  std::int64_t blocks_resumed = 0;  ///< taken over from earlier runs
  double wall_seconds = 0;
};

/// Attributes known after the last row.
file::Attributes final_attributes(const file::CheckFigures& figures, const FinishingRun& run);

}  // namespace hessian_mpi::run
