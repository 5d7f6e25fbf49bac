#pragma once
/// The command line and the configuration file as one plain struct, with every check that needs no model.

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::run {

/// One of so many parts of the matrix, counted from 0: what a task of a job array computes.
struct PartOfRows {
  std::int64_t part = 0;
  std::int64_t parts = 1;
};

/// What the user asked for; the manual is src/run/options.md, which a test holds to `--help`.
struct Options {
  std::optional<std::filesystem::path> model;   ///< the embedded example where absent
  std::optional<std::filesystem::path> data;    ///< the embedded example where absent
  std::optional<std::filesystem::path> values;  ///< of parameters and buffers; the model's where absent
  std::string loss = "cross_entropy";
  std::vector<std::string> loss_options;  ///< each a NAME=VALUE, looked at where the loss is made
  double l2 = 0;
  Reduction reduction = Reduction::mean;
  Mode mode = Mode::eval;
  std::optional<std::int64_t> batch_size;
  std::vector<std::string> whole;  ///< inputs that are not cut into samples
  std::optional<Precision> dtype;
  bool keep_casts = false;  ///< in float64, casts to narrower dtypes inside the network
  std::vector<std::string> parameters = {"*"};
  /// Names of the inputs that rows and columns are of, all floating ones where there is none; parameters where absent.
  std::optional<std::vector<std::string>> inputs;
  std::uint64_t seed = 0;
  Matrix matrix = Matrix::hessian;
  Entries entries = Entries::all;
  Method method = Method::automatic;
  DeviceChoice device = DeviceChoice::automatic;
  std::optional<Precision> accumulate;     ///< of sums over samples; as the derivatives where absent
  std::optional<Rows> rows;                ///< all where this and the next are absent
  std::optional<PartOfRows> part_of_rows;  ///< at most one of the two
  std::optional<int> threads;
  std::optional<std::uint64_t> memory;  ///< bytes
  std::optional<std::filesystem::path> config;
  std::filesystem::path output = "hessian.h5";
  std::optional<Precision> storage;
  std::optional<double> time_limit;  ///< seconds
  bool plan = false;                 ///< say what the job will take, and write nothing
  bool resume = false;
  bool overwrite = false;
  int check_rows = 8;
  Verify verify = Verify::sample;
  ProgressStyle progress = ProgressStyle::automatic;

  bool help = false;
  bool version = false;
  bool verbose = false;      ///< of version
  std::string command_line;  ///< as typed, for the file
  /// Where the configuration file says to plan: its other options, as a command line has them.
  std::optional<std::string> options_beside_plan;

  system::UsedFiles files() const;
};

/// Parses argv and the file that --config names; the command line wins. Throws InputError naming the option at fault.
Options parse_options(int argc, const char* const* argv);

/// The text of --help.
void print_help(std::ostream& out);

/// "3600", "30:00", "1:00:00", "2-12:00:00": seconds of a time as Slurm writes them; nothing for "UNLIMITED". Throws
/// InputError.
std::optional<double> parse_time(const std::string& text);

}  // namespace hessian_mpi::run
