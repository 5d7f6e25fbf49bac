#pragma once
/// What a run tells of itself before, instead of and after its work, as plain values.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::run {

/// What a run is going to do.
struct Announcement {
  std::string version;
  int ranks = 1;
  int threads = 1;
  std::string device = "cpu";
  std::string model;  ///< as the user named it, and its format
  std::string data;
  std::int64_t samples = 0;
  std::int64_t batches = 1;
  std::string loss;
  Reduction reduction = Reduction::mean;
  std::string method;                           ///< how the rows are made
  std::vector<std::string> by_double_backward;  ///< which parameters are left to double-backward, and why
  bool by_inputs = false;                       ///< in the place of parameters
  std::int64_t tensors = 0;
  matrix::MatrixShape matrix;
  Precision dtype = Precision::float32;
  std::filesystem::path output;
  std::string title = "Hessian";  ///< what the matrix is called
};

/// Seconds of the parts of a job, and how they shrink with ranks.
struct Estimate {
  double double_backward_row = 0;  ///< one row by double-backward; 0 where there is none
  double rows = 0;                 ///< of computing all rows of the job on one rank
  double shared = 0;               ///< of the passes that ranks share, on one rank
  double on_each = 0;              ///< of what every rank does for itself
  double bytes_a_second = 0;       ///< that these ranks write together
  double written_a_second = 0;     ///< bytes that one core writes, as far as it is busy and does not wait for the disk
  std::uint64_t bytes = 0;         ///< of the job's rows
  double columns_a_second = 0;     ///< bytes of rows of one step, as columns of the next, that a rank takes in
  std::uint64_t columns = 0;       ///< bytes of those, on all ranks

  /// Of computing, on so many ranks with a core for each of their threads.
  double computing(int ranks) const {
    const double taking_in = columns_a_second > 0 ? static_cast<double>(columns) / columns_a_second : 0;
    return (rows + shared + taking_in) / ranks + on_each;
  }
  /// Of the cores of so many ranks: computing, and what writing takes of them.
  double processing(int ranks) const {
    return computing(ranks) + (written_a_second > 0 ? static_cast<double>(bytes) / written_a_second / ranks : 0);
  }
  /// Of writing, by any number of ranks: the file system is what bounds it.
  double writing() const { return bytes_a_second > 0 ? static_cast<double>(bytes) / bytes_a_second : 0; }
};

/// What the job will take, before any of it is done.
struct Forecast {
  Estimate estimate;
  double serial = 0;         ///< seconds that every rank spends before and after the rows
  std::uint64_t memory = 0;  ///< bytes of a rank, at most
  int ranks = 1;
  int threads = 1;
  std::string options;                   ///< of the job, each with a space before it
  std::vector<std::string> ways;         ///< for each parameter how its rows are made
  std::string pass = "double-backward";  ///< what makes a single row
};
/// Seconds of the whole job on so many ranks.
double seconds_of_job(const Forecast& forecast, int ranks);

/// Wall seconds of the stages of a run, on the slowest rank.
struct StageSeconds {
  double load = 0;      ///< model and data from their files
  double gradient = 0;  ///< loss, gradient, and the probe of second derivatives
  double create = 0;    ///< making the file and taking its space
  double rows = 0;      ///< computing
  double passes = 0;    ///< of that, passes through the network
  double exchange = 0;  ///< and bringing rows that were made before to where they are columns
  double write = 0;     ///< writing, with checkpoints and the final sync
  double checkpoints = 0;
  double checks = 0;
  double all = 0;
};

/// What a run has done.
struct Summary {
  std::filesystem::path output;
  bool complete = false;
  matrix::MatrixShape matrix;
  std::int64_t blocks_resumed = 0;  ///< taken over from earlier runs
  double loss = 0;
  double gradient_norm = 0;
  double largest = 0;
  file::CheckFigures checks;
  StageSeconds seconds;
  std::uint64_t peak_memory = 0;  ///< of the largest rank, bytes
  std::string title = "Hessian";  ///< what the matrix is called
};

}  // namespace hessian_mpi::run
