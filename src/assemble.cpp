#include "hessian_mpi/assemble.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "hessian_mpi/checksum.hpp"
#include "hessian_mpi/error.hpp"

namespace hessian_mpi {
namespace {

// Larger buffers write no faster, and leave the cache before they are written.
constexpr std::int64_t buffer_bytes = 16 << 20;
// The largest write in one call that all versions of Open MPI and HDF5 do right, with room to spare.
constexpr std::int64_t largest_write = 512 << 20;
// All ranks meet at least this often, so that an error or a stop on one of them is known to all.
constexpr double seconds_between_writes = 1;
// From the last block to the end of the process.
constexpr double seconds_to_leave = 1;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::int64_t bytes_of_block(const MatrixShape& matrix) {
  return matrix.grid.rows_per_block() * matrix.bytes_of_row();
}

std::int64_t blocks_worth_a_call(const Engine& engine, const BlockGrid& grid) {
  return (engine.rows_at_once() + grid.rows_per_block() - 1) / grid.rows_per_block();
}

// Largest absolute value as bits: for finite numbers the order of the bits without the sign is that of the values, and
// everything that is not finite lies above.
template <class Bits, class Number>
Magnitude magnitude(const Number* numbers, std::int64_t count) {
  constexpr Bits without_sign = std::numeric_limits<Bits>::max() >> 1;
  constexpr Bits infinity = std::bit_cast<Bits>(std::numeric_limits<Number>::infinity());
  Bits largest = 0;
  for (std::int64_t k = 0; k < count; ++k) largest = std::max(largest, std::bit_cast<Bits>(numbers[k]) & without_sign);
  if (largest < infinity) return {static_cast<double>(std::bit_cast<Number>(largest)), true};
  Magnitude result{0, false};
  for (std::int64_t k = 0; k < count; ++k) {
    if (std::isfinite(numbers[k])) result.largest = std::max(result.largest, std::abs(static_cast<double>(numbers[k])));
  }
  return result;
}

Magnitude magnitude_of_row(const char* row, const MatrixShape& matrix) {
  return matrix.storage == Precision::float32 ? magnitude_of(reinterpret_cast<const float*>(row), matrix.columns)
                                              : magnitude_of(reinterpret_cast<const double*>(row), matrix.columns);
}

// What a rank does between the meetings of all ranks.
class OwnBlocks {
 public:
  OwnBlocks(Engine& engine, const MatrixShape& matrix, BlockList blocks, std::int64_t blocks_at_once)
      : engine_(engine),
        matrix_(matrix),
        blocks_(std::move(blocks)),
        step_(blocks_worth_a_call(engine, matrix.grid)),
        most_(blocks_at_once) {
    const auto size = std::min(most_, static_cast<std::int64_t>(blocks_.size())) * bytes_of_block(matrix);
    // Not filled: pages are touched first by the rows themselves.
    buffer_ = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(size));
  }

  std::int64_t left() const { return static_cast<std::int64_t>(blocks_.size() - done_); }
  // As many blocks as take so many seconds, and no fewer than are worth a call.
  std::int64_t blocks_for(double seconds) const;
  double seconds_for_least() const { return pace_ * static_cast<double>(std::min(step_, most_)); }

  // Computes so many blocks, fewer at a gap or where there is a reason to stop.
  void compute(std::int64_t count, const StopRequest& stop, Progress& progress, Assembled& result);
  Rows computed() const { return rows_of(matrix_.grid, computed_); }
  const char* numbers() const { return buffer_.get(); }
  // The computed blocks have been written, which took some time.
  void hand_over(double seconds, Checkpoint& checkpoint);

 private:
  void look_at(const Rows& rows, const char* bytes, Assembled& result);

  Engine& engine_;
  const MatrixShape& matrix_;
  BlockList blocks_;
  std::int64_t step_;
  std::int64_t most_;
  std::unique_ptr<char[]> buffer_;
  std::size_t done_ = 0;
  Blocks computed_;
  std::vector<BlockRecord> records_;  // of the computed blocks; not on_disk where a number is not finite
  double computing_ = 0;              // seconds for the computed blocks
  double in_all_ = 0;                 // seconds for all blocks so far, with their writing
  double pace_ = 0;                   // seconds for a block, of all or of the last ones: whichever is more
};

std::int64_t OwnBlocks::blocks_for(double seconds) const {
  if (left() == 0) return most_;
  const auto least = std::min(step_, most_);
  if (done_ == 0) return least;
  const double fitting = seconds / std::max(pace_, 1e-9);
  return std::clamp(fitting < static_cast<double>(most_) ? static_cast<std::int64_t>(fitting) : most_, least, most_);
}

// Looks at the rows of one block once, while they are in the cache.
void OwnBlocks::look_at(const Rows& rows, const char* bytes, Assembled& result) {
  BlockRecord record{xxh3(bytes, static_cast<std::size_t>(rows.count() * matrix_.bytes_of_row())), 0, true};
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    const auto row = magnitude_of_row(bytes + (i - rows.begin) * matrix_.bytes_of_row(), matrix_);
    record.largest = std::max(record.largest, row.largest);
    if (row.finite) continue;
    result.nonfinite_rows.push_back(i);
    record.on_disk = false;
  }
  records_.push_back(record);
}

void OwnBlocks::compute(std::int64_t count, const StopRequest& stop, Progress& progress, Assembled& result) {
  const auto start = Clock::now();
  const auto wanted = neighbours_from(blocks_, done_, count);
  const auto first_row = rows_of(matrix_.grid, wanted).begin;
  computed_ = {wanted.begin, wanted.begin};
  records_.clear();
  while (computed_.end < wanted.end && stop.reason() == 0) {
    const Blocks asked{computed_.end, std::min(computed_.end + step_, wanted.end)};
    const Rows rows = rows_of(matrix_.grid, asked);
    const auto place = [&](std::int64_t row) { return buffer_.get() + (row - first_row) * matrix_.bytes_of_row(); };
    engine_.compute(rows, matrix_.storage, place(rows.begin), [&](double done) { progress.advance(done); });
    for (auto b = asked.begin; b < asked.end; ++b) {
      look_at(matrix_.grid.block(b), place(matrix_.grid.block(b).begin), result);
    }
    computed_.end = asked.end;
  }
  computing_ = seconds_since(start);
  result.compute_seconds += computing_;
}

void OwnBlocks::hand_over(double seconds, Checkpoint& checkpoint) {
  for (std::size_t k = 0; k < records_.size(); ++k) {
    if (records_[k].on_disk) checkpoint.add(computed_.begin + static_cast<std::int64_t>(k), records_[k]);
  }
  done_ += static_cast<std::size_t>(computed_.count());
  in_all_ += computing_ + seconds;
  if (computed_.count() == 0) return;
  pace_ =
      std::max(in_all_ / static_cast<double>(done_), (computing_ + seconds) / static_cast<double>(computed_.count()));
}

// Computes on all ranks; where that fails on one, what was written before is marked and the file closed, if that still
// works.
void compute_together(OwnBlocks& own, std::int64_t count, const StopRequest& stop, Progress& progress,
                      HessianWriter& writer, Checkpoint& checkpoint, const Communicator& communicator,
                      Assembled& result) {
  try {
    communicator.together([&] {
      try {
        own.compute(count, stop, progress, result);
      } catch (const Error& error) {  // whatever it was, it is not the input any more
        throw RunError(error.what());
      }
    });
  } catch (const AgreedError&) {
    try {
      checkpoint.take(writer);
      writer.close();
    } catch (const AgreedError&) {  // the first error is the one to tell
    }
    throw;
  }
}

}  // namespace

Magnitude magnitude_of(const float* numbers, std::int64_t count) {
  return magnitude<std::uint32_t>(numbers, count);
}
Magnitude magnitude_of(const double* numbers, std::int64_t count) {
  return magnitude<std::uint64_t>(numbers, count);
}

std::int64_t blocks_in_memory(const Engine& engine, const MatrixShape& matrix, std::uint64_t memory) {
  const auto block = static_cast<std::uint64_t>(bytes_of_block(matrix));
  const auto beside = engine.bytes_per_row() * static_cast<std::uint64_t>(matrix.grid.rows_per_block());
  const auto fitting = static_cast<std::int64_t>(memory / (block + beside));
  if (fitting < 1) {
    throw InputError(text("--memory of ", memory,
                          " bytes is less than one block of rows takes on a rank: give at least ",
                          (block + beside + (1 << 20) - 1) >> 20, "M"));
  }
  const auto bytes = static_cast<std::int64_t>(block);
  const auto worth = std::max(buffer_bytes / bytes, blocks_worth_a_call(engine, matrix.grid));
  return std::clamp<std::int64_t>(std::min(worth, largest_write / bytes), 1, fitting);
}

Assembled assemble(Engine& engine, const Assignment& assignment, HessianWriter& writer, Checkpoint& checkpoint,
                   const StopRequest& stop, const Communicator& communicator, Progress& progress) {
  Assembled result;
  auto own = communicator.together([&] {
    const auto share = share_of_rank(assignment.blocks, communicator.rank(), communicator.size());
    return OwnBlocks(engine, assignment.matrix, share, assignment.blocks_at_once);
  });
  const auto save = [&] {
    const auto start = Clock::now();
    checkpoint.take(writer);
    result.checkpoint_seconds += seconds_since(start);
    result.write_seconds += seconds_since(start);
  };
  while (true) {
    const double after = 2 * checkpoint.seconds() + seconds_to_leave;
    const auto wanted = own.blocks_for(std::min(seconds_between_writes, stop.seconds_left() - after));
    const auto reason = stop.reason(own.seconds_for_least() + after);
    const auto agreed = communicator.max({own.left(), reason, checkpoint.is_due(), -wanted});
    if (agreed[0] == 0) break;
    result.stopped = static_cast<int>(agreed[1]);
    if (result.stopped != 0) break;
    if (agreed[2] != 0) save();
    compute_together(own, -agreed[3], stop, progress, writer, checkpoint, communicator, result);
    const auto computed = Clock::now();
    writer.write(own.computed(), own.numbers());
    const double writing = seconds_since(computed);
    own.hand_over(writing, checkpoint);
    result.write_seconds += writing;
  }
  save();
  return result;
}

}  // namespace hessian_mpi
