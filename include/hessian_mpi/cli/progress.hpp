#pragma once
/// Progress as the user sees it while rows are made: a bar on a terminal, a line now and then in a log.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/base/work.hpp"

namespace hessian_mpi::cli {

/// What one moment looks like; free of clocks and streams.
struct ProgressState {
  double fraction = 0;                      ///< of the rows to be made, in [0, 1]
  double seconds = 0;                       ///< since the first of them was begun
  std::int64_t rows = 0;                    ///< of the whole file
  std::uint64_t bytes = 0;                  ///< of the whole file
  std::int64_t present = 0;                 ///< rows that earlier runs have made
  std::optional<double> seconds_left = {};  ///< where more is known than the rate of rows so far
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
           std::ostream& out, std::optional<Work> work = {});
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Adds rows of this rank that are done, what work they were and the seconds of it in passes, where these are known,
  /// and shows it if it is time. The two kinds of work are each taken to go on as fast as they went.
  void advance(double rows, const Work& work = {}, double seconds_in_passes = 0);
  /// Rows of this rank have been written, in so many seconds, or in none where computing beside it took longer. Not
  /// while another thread calls advance().
  void wrote(double rows, double seconds);
  /// Ends the display, at the last row.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  ProgressState state(Clock::time_point now) const;
  std::optional<double> seconds_left(double seconds) const;
  void show(Clock::time_point now);

  ProgressStyle style_;
  std::int64_t rows_;
  std::int64_t present_;
  std::uint64_t bytes_;
  double share_;
  std::ostream& out_;
  double done_ = 0;
  std::optional<Work> work_;
  Work work_done_;
  double seconds_in_passes_ = 0;
  double written_ = 0;
  double lately_written_ = 0;  // of the last writes most, of earlier ones less and less
  double seconds_of_these_ = 0;
  Clock::time_point start_;
  Clock::time_point next_;
  std::chrono::duration<double> pause_;
  bool shown_ = false;
};

}  // namespace hessian_mpi::cli
