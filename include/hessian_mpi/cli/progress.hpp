#pragma once
/// Progress as the user sees it while rows are made: a bar on a terminal, a line now and then in a log.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::cli {

/// What one moment looks like; free of clocks and streams.
struct ProgressState {
  double fraction = 0;              ///< of the rows to be made, in [0, 1]
  double seconds = 0;               ///< since the first of them was begun
  std::int64_t rows = 0;            ///< of the whole file
  std::uint64_t bytes = 0;          ///< of the whole file
  std::int64_t present = 0;         ///< rows that earlier runs have made
  std::optional<double> work = {};  ///< the fraction of the work, where rows differ in what they take
  double seconds_to_write = 0;      ///< what is left at the rate of the last writes: it takes no less than that
};

/// "[=====>    ]  52 %  12150 / 23365 rows  2681 rows/s  1.1 / 2.2 GB  4 s left", `width` characters at most.
std::string progress_bar(const ProgressState& state, int width);
/// The same as a line of a log.
std::string progress_line(const ProgressState& state);

/// True if what this process writes to stderr reaches a terminal, also where mpirun stands between.
bool is_on_terminal();

/// Shows progress of this rank's share as that of the job: all ranks have equal shares and write together. Only root is
/// given a style other than none. Not collective.
class Progress {
 public:
  /// rows, bytes: of the whole file. present: rows of it made by earlier runs. share: rows that this rank is to make,
  /// work: what they take, where rows differ in that. The stream must outlive the object.
  Progress(ProgressStyle style, std::int64_t rows, std::int64_t present, std::uint64_t bytes, std::int64_t share,
           std::ostream& out, std::optional<double> work = {});
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Adds rows of this rank that are done, and the work that they took, and shows it if it is time.
  void advance(double rows, double work = 0);
  /// Rows of this rank have been written, in so many seconds. Not while another thread calls advance().
  void wrote(double rows, double seconds);
  /// Ends the display, at the last row.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  ProgressState state(Clock::time_point now) const;
  void show(Clock::time_point now);

  ProgressStyle style_;
  std::int64_t rows_;
  std::int64_t present_;
  std::uint64_t bytes_;
  double share_;
  std::ostream& out_;
  double done_ = 0;
  std::optional<double> work_;
  double work_done_ = 0;
  double written_ = 0;
  double lately_written_ = 0;  // of the last writes most, of earlier ones less and less
  double seconds_of_these_ = 0;
  Clock::time_point start_;
  Clock::time_point next_;
  std::chrono::duration<double> pause_;
  bool shown_ = false;
};

}  // namespace hessian_mpi::cli
