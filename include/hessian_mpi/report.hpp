#pragma once
/// What the user reads before and after a run, on rank 0.

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "hessian_mpi/check_figures.hpp"
#include "hessian_mpi/estimate.hpp"
#include "hessian_mpi/parameter_index.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

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
  std::string method;                    ///< how the rows are made
  std::vector<std::string> rows_by_row;  ///< which parameters are left to plain rows, and why
  std::int64_t parameter_tensors = 0;
  MatrixShape matrix;
  Precision dtype = Precision::float32;
  std::filesystem::path output;
};
void print(std::ostream& out, const Announcement& announcement);

/// What the job will take, before any of it is done.
struct Forecast {
  Estimate estimate;
  double serial = 0;         ///< seconds that every rank spends before and after the rows
  std::uint64_t memory = 0;  ///< bytes of a rank, at most
  int ranks = 1;
  int threads = 1;
  std::string options;            ///< of the job, each with a space before it
  std::vector<std::string> ways;  ///< for each parameter how its rows are made
};
void print(std::ostream& out, const Forecast& forecast);
/// Seconds of the whole job on so many ranks.
double seconds_of_job(const Forecast& forecast, int ranks);

/// Wall seconds of the phases of a run, on the slowest rank.
struct PhaseSeconds {
  double load = 0;      ///< model and data from their files
  double gradient = 0;  ///< loss, gradient, and the probe of second derivatives
  double create = 0;    ///< making the file and taking its space
  double rows = 0;      ///< computing
  double write = 0;     ///< writing, with checkpoints and the final sync
  double checkpoints = 0;
  double checks = 0;
  double all = 0;
};

/// What a run has done.
struct Summary {
  std::filesystem::path output;
  bool complete = false;
  MatrixShape matrix;
  std::int64_t blocks_resumed = 0;  ///< taken over from earlier runs
  double loss = 0;
  double gradient_norm = 0;
  double largest = 0;
  CheckFigures checks;
  PhaseSeconds seconds;
  std::uint64_t peak_memory = 0;  ///< of the largest rank, bytes
};
void print(std::ostream& out, const Summary& summary);

/// "3 rows, the first: 17 (fc.weight[0, 1]), ...": some rows for a message.
std::string text_of_rows(const std::vector<std::int64_t>& rows, const ParameterIndex& index);

}  // namespace hessian_mpi
