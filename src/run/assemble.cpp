#include "hessian_mpi/run/assemble.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/base/worker.hpp"
#include "hessian_mpi/network/kernels.hpp"

namespace hessian_mpi::run {
namespace {

// The largest write in one call that all versions of Open MPI and HDF5 do right, with room to spare.
constexpr std::int64_t largest_write = 512 << 20;
// All ranks meet at least this often, so that an error or a stop on one of them is known to all.
constexpr double seconds_between_writes = 1;
// From the last block to the end of the process.
constexpr double seconds_to_leave = 1;

std::int64_t blocks_worth_a_call(const engines::Engine& engine, const matrix::BlockGrid& grid) {
  return (engine.rows_at_once() + grid.rows_per_block() - 1) / grid.rows_per_block();
}

// Largest absolute value as bits: for finite numbers the order of the bits without the sign is that of the values, and
// everything that is not finite lies above. Signed, since older processors compare no unsigned vectors.
template <class Bits, class Number>
inline __attribute__((always_inline)) Bits largest_bits(const Number* numbers, std::int64_t count) {
  constexpr Bits without_sign = std::numeric_limits<Bits>::max();
  Bits largest = 0;
  for (std::int64_t k = 0; k < count; ++k) largest = std::max(largest, std::bit_cast<Bits>(numbers[k]) & without_sign);
  return largest;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HESSIAN_MPI_ALSO_FOR_AVX2 __attribute__((target_clones("avx2", "default")))
#else
#define HESSIAN_MPI_ALSO_FOR_AVX2
#endif
HESSIAN_MPI_ALSO_FOR_AVX2 std::int32_t largest_bits_of(const float* numbers, std::int64_t count) {
  return largest_bits<std::int32_t>(numbers, count);
}
HESSIAN_MPI_ALSO_FOR_AVX2 std::int64_t largest_bits_of(const double* numbers, std::int64_t count) {
  return largest_bits<std::int64_t>(numbers, count);
}

template <class Number>
Magnitude magnitude(const Number* numbers, std::int64_t count) {
  const auto largest = largest_bits_of(numbers, count);
  if (largest < std::bit_cast<decltype(largest_bits_of(numbers, count))>(std::numeric_limits<Number>::infinity())) {
    return {static_cast<double>(std::bit_cast<Number>(largest)), true};
  }
  Magnitude result{0, false};
  for (std::int64_t k = 0; k < count; ++k) {
    if (std::isfinite(numbers[k])) result.largest = std::max(result.largest, std::abs(static_cast<double>(numbers[k])));
  }
  return result;
}

Magnitude magnitude_of_row(const char* row, std::int64_t count, Precision storage) {
  return storage == Precision::float32 ? magnitude_of(reinterpret_cast<const float*>(row), count)
                                       : magnitude_of(reinterpret_cast<const double*>(row), count);
}

// Those of some neighbouring blocks that are of one piece with the first.
matrix::Blocks within_piece(const matrix::Blocks& blocks, const matrix::BlockGrid& grid) {
  if (blocks.count() == 0) return blocks;
  const auto piece = grid.piece_of(grid.block(blocks.begin).begin);
  return {blocks.begin, std::min(blocks.end, grid.blocks_of_piece(piece).end)};
}

// Some neighbouring blocks of one piece in memory.
struct Piece {
  std::unique_ptr<char[]> numbers;
  matrix::Blocks blocks;
  std::vector<file::BlockRecord> records;  // not on_disk where a number is not finite
  double seconds = 0;                      // computing
  std::vector<std::int64_t> nonfinite_rows;
};

// What a rank does between the meetings of all ranks: one piece is computed while the other is written.
class OwnBlocks {
 public:
  OwnBlocks(engines::Engine& engine, const matrix::MatrixShape& matrix, matrix::BlockList blocks,
            std::int64_t blocks_at_once, std::function<Work(const Rows&)> work)
      : engine_(engine),
        matrix_(matrix),
        work_(std::move(work)),
        blocks_(std::move(blocks)),
        step_(blocks_worth_a_call(engine, matrix.grid)),
        most_(blocks_at_once) {
    const auto size = std::min(most_, static_cast<std::int64_t>(blocks_.size())) * matrix.bytes_of_largest_block();
    for (const auto b : blocks_) work_in_passes_ += work_ ? work_(matrix.grid.block(b)).passes : 0;
    // Not filled: pages are touched first by the rows themselves.
    for (auto* piece : {&computed_, &next_}) {
      piece->numbers = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(size));
    }
  }

  /// Blocks that have not been computed.
  std::int64_t left() const { return static_cast<std::int64_t>(blocks_.size() - begun_); }
  /// As many blocks as take so many seconds, and no fewer than are worth a call.
  std::int64_t blocks_for(double seconds) const;
  double seconds_for_least() const { return pace_ * static_cast<double>(std::min(step_, most_)); }

  /// Computes so many blocks, fewer at a gap or where there is a reason to stop. On another thread than all else.
  void compute(std::int64_t count, const ranks::StopPoint& stop, cli::Progress& progress);
  /// Of the blocks that were computed last.
  double seconds_computing() const { return next_.seconds; }
  /// What was computed is what is to be written now.
  void advance(Assembled& result);

  /// Of the engine, with what it took before the first block.
  double all_seconds_in_passes() const { return engine_.passes().seconds; }

  Rows computed() const { return rows_of(matrix_.grid, computed_.blocks); }
  const char* numbers() const { return computed_.numbers.get(); }
  /// The computed blocks have been written, which took some time.
  void hand_over(double seconds, file::Checkpoint& checkpoint);

 private:
  engines::Engine& engine_;
  const matrix::MatrixShape& matrix_;
  std::function<Work(const Rows&)> work_;
  matrix::BlockList blocks_;
  std::int64_t step_;
  std::int64_t most_;
  Piece computed_;
  Piece next_;
  std::size_t begun_ = 0;      // blocks that are computed or being computed
  std::size_t written_ = 0;    // blocks that have been handed over
  double in_all_ = 0;          // seconds for all of these, with their writing
  double work_in_passes_ = 0;  // for all these blocks
  engines::Passes passes_;     // that the progress knows of
  double pace_ = 0;            // seconds for a block, of all or of the last ones: whichever is more
};

std::int64_t OwnBlocks::blocks_for(double seconds) const {
  if (left() == 0) return most_;
  const auto least = std::min(step_, most_);
  if (written_ == 0) return least;
  const double fitting = seconds / std::max(pace_, 1e-9);
  return std::clamp(fitting < static_cast<double>(most_) ? static_cast<std::int64_t>(fitting) : most_, least, most_);
}

void OwnBlocks::compute(std::int64_t count, const ranks::StopPoint& stop, cli::Progress& progress) {
  const Stopwatch watch;
  network::use_threads_of_process();
  const auto wanted = within_piece(matrix::neighbours_from(blocks_, begun_, count), matrix_.grid);
  const auto first_row = rows_of(matrix_.grid, wanted).begin;
  next_.blocks = {wanted.begin, wanted.begin};
  next_.records.clear();
  next_.nonfinite_rows.clear();
  while (next_.blocks.end < wanted.end && stop.reason() == 0) {
    const matrix::Blocks asked{next_.blocks.end, std::min(next_.blocks.end + step_, wanted.end)};
    const Rows rows = rows_of(matrix_.grid, asked);
    const auto place = [&](std::int64_t row) { return next_.numbers.get() + matrix_.bytes_of_rows({first_row, row}); };
    const Work of_row = work_ ? 1 / static_cast<double>(rows.count()) * work_(rows) : Work{};
    engine_.compute(rows, matrix_.columns_of(rows.begin), matrix_.storage, place(rows.begin), [&](double done) {
      const auto before = std::exchange(passes_, engine_.passes());
      Work work = done * of_row;
      if (passes_.made) work.passes = (*passes_.made - before.made.value_or(0)) * work_in_passes_;
      progress.advance(done, work, passes_.seconds - before.seconds);
    });
    for (auto b = asked.begin; b < asked.end; ++b) {
      const auto block = matrix_.grid.block(b);  // which is in the cache still
      next_.records.push_back(record_of(block, matrix_, place(block.begin), next_.nonfinite_rows));
    }
    next_.blocks.end = asked.end;
  }
  next_.seconds = watch.seconds();
}

void OwnBlocks::advance(Assembled& result) {
  begun_ += static_cast<std::size_t>(next_.blocks.count());
  result.compute_seconds += next_.seconds;
  result.nonfinite_rows.insert(result.nonfinite_rows.end(), next_.nonfinite_rows.begin(), next_.nonfinite_rows.end());
  std::swap(computed_, next_);
  next_.blocks = {};
}

void OwnBlocks::hand_over(double seconds, file::Checkpoint& checkpoint) {
  const auto& blocks = computed_.blocks;
  for (std::size_t k = 0; k < computed_.records.size(); ++k) {
    if (computed_.records[k].on_disk) checkpoint.add(blocks.begin + static_cast<std::int64_t>(k), computed_.records[k]);
  }
  written_ += static_cast<std::size_t>(blocks.count());
  const double both = computed_.seconds + seconds;
  in_all_ += both;
  if (blocks.count() > 0) {
    pace_ = std::max(in_all_ / static_cast<double>(written_), both / static_cast<double>(blocks.count()));
  }
  computed_.blocks = {};
  computed_.records.clear();
}

// One rank's part in the assembly, and what all ranks do together.
class Assembly {
 public:
  Assembly(OwnBlocks& own, file::HessianWriter& writer, file::Checkpoint& checkpoint, const ranks::StopPoint& stop,
           const ranks::Communicator& communicator, cli::Progress& progress)
      : own_(own),
        writer_(writer),
        checkpoint_(checkpoint),
        stop_(stop),
        communicator_(communicator),
        progress_(progress) {}

  Assembled run();

 private:
  void save();
  struct Written {
    double rows = 0;
    double seconds = 0;
  };
  Written write();
  void compute_and_write(std::int64_t count);

  OwnBlocks& own_;
  file::HessianWriter& writer_;
  file::Checkpoint& checkpoint_;
  const ranks::StopPoint& stop_;
  const ranks::Communicator& communicator_;
  cli::Progress& progress_;
  Assembled result_;
  Worker worker_;
};

void Assembly::save() {
  const Stopwatch watch;
  checkpoint_.take(writer_);
  result_.checkpoint_seconds += watch.seconds();
  result_.write_seconds += watch.seconds();
}

Assembly::Written Assembly::write() {
  const Stopwatch watch;
  const Rows rows = own_.computed();
  writer_.write(rows, own_.numbers());
  const double writing = watch.seconds();
  own_.hand_over(writing, checkpoint_);
  result_.write_seconds += writing;
  return {static_cast<double>(rows.count()), writing};
}

// Computes on all ranks, and meanwhile writes what was computed before. Where computing fails on one, what was written
// is marked and the file closed, if that still works.
void Assembly::compute_and_write(std::int64_t count) {
  auto computing = worker_.begin([&] { own_.compute(count, stop_, progress_); });
  Written written;
  try {
    written = write();
  } catch (...) {
    computing.wait();
    throw;
  }
  try {
    communicator_.together([&] {
      try {
        computing.get();
      } catch (const Error& error) {  // whatever it was, it is not the input any more
        throw RunError(error.what());
      }
    });
  } catch (const ranks::AgreedError&) {
    try {
      checkpoint_.take(writer_);
      writer_.close();
    } catch (const ranks::AgreedError&) {  // the first error is the one to tell
    }
    throw;
  }
  progress_.wrote(written.rows, written.seconds > own_.seconds_computing() ? written.seconds : 0);
  own_.advance(result_);
}

Assembled Assembly::run() {
  while (true) {
    const double after = 2 * checkpoint_.seconds() + seconds_to_leave;
    const auto wanted = own_.blocks_for(std::min(seconds_between_writes, stop_.seconds_left() - after));
    const auto reason = stop_.reason(own_.seconds_for_least() + after);
    const auto agreed = communicator_.max({own_.left(), reason, checkpoint_.is_due(), -wanted});
    if (agreed[0] == 0 || agreed[1] != 0) {
      const auto written = write();
      progress_.wrote(written.rows, written.seconds);
      if (agreed[0] != 0) ranks::StopPoint::heed(agreed[1]);
      break;
    }
    if (agreed[2] != 0) save();
    compute_and_write(-agreed[3]);
  }
  if (communicator_.max(std::int64_t{checkpoint_.is_due()}) != 0) save();
  result_.pass_seconds = own_.all_seconds_in_passes();
  return std::move(result_);
}

}  // namespace

Magnitude magnitude_of(const float* numbers, std::int64_t count) {
  return magnitude(numbers, count);
}
Magnitude magnitude_of(const double* numbers, std::int64_t count) {
  return magnitude(numbers, count);
}

file::BlockRecord record_of(const Rows& rows, const matrix::MatrixShape& matrix, const char* bytes,
                            std::vector<std::int64_t>& nonfinite_rows) {
  const auto size = matrix.bytes_of_rows(rows);
  file::BlockRecord record{xxh3(bytes, static_cast<std::size_t>(size)), 0, true};
  for (std::int64_t i = rows.begin; i < rows.end; ++i, bytes += size / rows.count()) {
    const auto row = magnitude_of_row(bytes, matrix.columns_of(i).count(), matrix.storage);
    record.largest = std::max(record.largest, row.largest);
    if (row.finite) continue;
    nonfinite_rows.push_back(i);
    record.on_disk = false;
  }
  return record;
}

std::int64_t blocks_in_memory(const engines::Engine& engine, const matrix::MatrixShape& matrix, std::uint64_t memory) {
  const auto block = static_cast<std::uint64_t>(matrix.bytes_of_largest_block());
  const auto beside =
      engine.bytes_per_row(matrix.longest_row()) * static_cast<std::uint64_t>(matrix.grid.rows_per_block());
  const auto fitting = static_cast<std::int64_t>(memory / (2 * block + beside));  // one is computed, one is written
  if (fitting < 1) {
    throw InputError(text("--memory of ", memory, " bytes is less than two row blocks take on a rank: give at least ",
                          (2 * block + beside + (1 << 20) - 1) >> 20, "M"));
  }
  const auto bytes = static_cast<std::int64_t>(block);
  const auto worth = std::max(buffer_bytes / bytes, blocks_worth_a_call(engine, matrix.grid));
  return std::clamp<std::int64_t>(std::min(worth, largest_write / bytes), 1, fitting);
}

Assembled assemble(engines::Engine& engine, const Assignment& assignment, file::HessianWriter& writer,
                   file::Checkpoint& checkpoint, const ranks::StopPoint& stop, const ranks::Communicator& communicator,
                   cli::Progress& progress) {
  auto own = communicator.together([&] {
    const auto share = assignment.blocks.of_rank(communicator.rank());
    return OwnBlocks(engine, assignment.matrix, share, assignment.blocks_at_once, assignment.work);
  });
  return Assembly(own, writer, checkpoint, stop, communicator, progress).run();
}

}  // namespace hessian_mpi::run
