#include "hessian_mpi/cli/progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <string_view>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"

namespace hessian_mpi::cli {
namespace {

constexpr int default_width = 100;
constexpr std::chrono::duration<double> pause_of_bar{0.2};
// Lines in a log come rarer the longer a job runs: a day leaves a page, not a book.
constexpr std::chrono::duration<double> first_pause_of_lines{5};
constexpr std::chrono::duration<double> longest_pause_of_lines{300};

template <class... Values>
std::string formatted(const char* format, Values... values) {
  std::array<char, 256> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, values...);
  return buffer.data();
}

double rows_made(const ProgressState& state) {
  return state.fraction * static_cast<double>(state.rows - state.present);
}

// Of the whole file, with the rows of earlier runs.
double share_of_file(const ProgressState& state) {
  return state.rows > 0 ? (static_cast<double>(state.present) + rows_made(state)) / static_cast<double>(state.rows) : 1;
}

std::string figures(const ProgressState& state) {
  const double made = rows_made(state);
  const double rows = static_cast<double>(state.present) + made;
  const double share = share_of_file(state);
  const double rate = state.seconds > 0 ? made / state.seconds : 0;
  const auto bytes = static_cast<std::uint64_t>(share * static_cast<double>(state.bytes));
  auto seconds = state.seconds_left;
  if (!seconds && state.fraction > 0) seconds = state.seconds / state.fraction * (1 - state.fraction);
  const std::string left = seconds ? text_of_seconds(*seconds) + " left" : "";
  return formatted("%3.0f %%  %.0f / %lld rows  %s rows/s  %s / %s  %s", 100 * share, std::floor(rows),
                   static_cast<long long>(state.rows), formatted(rate < 100 ? "%.3g" : "%.0f", rate).c_str(),
                   text_of_bytes(bytes).c_str(), text_of_bytes(state.bytes).c_str(), left.c_str());
}

// A process as /proc/PID/stat tells of it.
struct Process {
  std::string name;
  int parent = 0;
};

Process process_of(int id) {
  std::ifstream in(text("/proc/", id, "/stat"));
  Process process;
  char state = 0;
  // "4711 (mpiexec.hydra) S 4242 ...": launchers' names have no spaces; others are not asked for more than that.
  in >> id >> process.name >> state >> process.parent;
  return process;
}

// mpirun reads the ranks' stderr through a pipe; whether its own goes to a terminal is what counts.
std::filesystem::path stderr_of_launcher() {
  int id = getppid();
  auto process = process_of(id);
  if (process.name == "(hydra_pmi_proxy)") {  // MPICH's mpiexec starts the ranks of a node through it
    id = process.parent;
    process = process_of(id);
  }
  constexpr std::array<std::string_view, 4> launchers{"(mpirun", "(mpiexec", "(orterun", "(prterun"};
  const auto starts = [&](std::string_view launcher) { return process.name.starts_with(launcher); };
  if (std::none_of(launchers.begin(), launchers.end(), starts)) return {};
  std::error_code unreadable;
  return std::filesystem::read_symlink(text("/proc/", id, "/fd/2"), unreadable);
}

bool names_terminal(const std::filesystem::path& path) {
  return path.string().rfind("/dev/pts/", 0) == 0 || path.string().rfind("/dev/tty", 0) == 0;
}

int terminal_width() {
  winsize size{};
  const auto launcher = stderr_of_launcher();
  std::FILE* const terminal = names_terminal(launcher) ? std::fopen(launcher.c_str(), "r") : nullptr;
  const bool known = ioctl(terminal != nullptr ? fileno(terminal) : STDERR_FILENO, TIOCGWINSZ, &size) == 0;
  if (terminal != nullptr) std::fclose(terminal);
  return known && size.ws_col > 0 ? size.ws_col : default_width;
}

}  // namespace

std::string progress_line(const ProgressState& state) {
  return figures(state);
}

std::string progress_bar(const ProgressState& state, int width) {
  const std::string right = "  " + figures(state);
  const int room = std::max(0, std::min(30, width - static_cast<int>(right.size()) - 3));
  if (room == 0) return right.substr(2, static_cast<std::size_t>(std::max(0, width - 1)));
  const int filled = static_cast<int>(share_of_file(state) * room);
  return "[" + std::string(static_cast<std::size_t>(filled), '=') + (filled < room ? ">" : "") +
         std::string(static_cast<std::size_t>(std::max(0, room - filled - 1)), ' ') + "]" + right;
}

bool is_on_terminal() {
  return isatty(STDERR_FILENO) == 1 || names_terminal(stderr_of_launcher());
}

Progress::Progress(ProgressStyle style, std::int64_t rows, std::int64_t present, std::uint64_t bytes,
                   std::int64_t share, std::ostream& out, std::optional<Work> work)
    : style_(style),
      rows_(rows),
      present_(present),
      bytes_(bytes),
      share_(static_cast<double>(std::max<std::int64_t>(share, 1))),
      out_(out),
      work_(work),
      start_(Clock::now()) {
  if (style_ == ProgressStyle::automatic) style_ = is_on_terminal() ? ProgressStyle::bar : ProgressStyle::plain;
  pause_ = style_ == ProgressStyle::bar ? pause_of_bar : first_pause_of_lines;
  next_ = start_ + std::chrono::duration_cast<Clock::duration>(pause_);
}

Progress::~Progress() {
  // An error message that follows begins on a line of its own.
  if (shown_ && style_ == ProgressStyle::bar) out_ << '\n' << std::flush;
}

void Progress::advance(double rows, const Work& work, double seconds_in_passes) {
  done_ += rows;
  work_done_ = work_done_ + work;
  seconds_in_passes_ += seconds_in_passes;
  if (style_ == ProgressStyle::none) return;
  const auto now = Clock::now();
  if (now >= next_) show(now);
}

void Progress::wrote(double rows, double seconds) {
  constexpr double kept = 0.95;
  written_ += rows;
  lately_written_ = kept * lately_written_ + rows;
  seconds_of_these_ = kept * seconds_of_these_ + seconds;
}

void Progress::finish() {
  if (style_ == ProgressStyle::none) return;
  done_ = share_;
  written_ = share_;
  work_done_ = work_.value_or(Work{});
  show(Clock::now());
  if (style_ == ProgressStyle::bar) out_ << '\n' << std::flush;
  shown_ = false;
}

// No less than what is left to write takes at the pace of the last writes.
std::optional<double> Progress::seconds_left(double seconds) const {
  const Work all = work_.value_or(Work{0, share_});
  const Work done = work_ ? work_done_ : Work{0, done_};
  if (done.all() <= 0) return std::nullopt;
  const auto rest = [](double whole, double part) { return std::max(0.0, whole / part - 1); };
  const double in_passes = seconds_in_passes_;
  const double beside = seconds - in_passes;
  const bool two_paces = in_passes > 0 && beside > 0 && done.passes > 0 && done.others > 0;
  const double to_compute = two_paces
                                ? in_passes * rest(all.passes, done.passes) + beside * rest(all.others, done.others)
                                : seconds * rest(all.all(), done.all());
  const double pace = lately_written_ > 0 ? seconds_of_these_ / lately_written_ : 0;
  return std::max(to_compute, pace * std::max(0.0, share_ - written_));
}

ProgressState Progress::state(Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  return {std::min(1.0, done_ / share_), seconds, rows_, bytes_, present_, seconds_left(seconds)};
}

void Progress::show(Clock::time_point now) {
  shown_ = true;
  if (style_ == ProgressStyle::bar) {
    out_ << '\r' << progress_bar(state(now), terminal_width()) << "\033[K" << std::flush;
  } else {
    out_ << progress_line(state(now)) << '\n' << std::flush;
    pause_ = std::min<std::chrono::duration<double>>(pause_ * 1.5, longest_pause_of_lines);
  }
  next_ = now + std::chrono::duration_cast<Clock::duration>(pause_);
}

}  // namespace hessian_mpi::cli
