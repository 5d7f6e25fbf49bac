#include "hessian_mpi/assemble.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>

#include "hessian_mpi/checksum.hpp"
#include "hessian_mpi/error.hpp"

namespace hessian_mpi {
namespace {

// Larger buffers write no faster, and leave the cache before they are written.
constexpr std::int64_t buffer_bytes = 16 << 20;
// The largest write in one call that all versions of Open MPI and HDF5 do right, with room to spare.
constexpr std::int64_t largest_write = 512 << 20;
// All ranks meet at least this often, so that an error or a stop on one of them is known to all.
constexpr double seconds_between_writes = 10;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::int64_t bytes_of_block(const BlockGrid& grid, std::int64_t columns, Precision storage) {
  return grid.rows_per_block() * columns * static_cast<std::int64_t>(bytes_of(storage));
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

Magnitude magnitude_of_row(const char* row, std::int64_t columns, Precision storage) {
  return storage == Precision::float32 ? magnitude_of(reinterpret_cast<const float*>(row), columns)
                                       : magnitude_of(reinterpret_cast<const double*>(row), columns);
}

// Looks at the rows of one block once, while they are in the cache.
void take_note_of(const Rows& rows, const char* bytes, std::int64_t columns, Precision storage, Assembled& result) {
  const auto row_bytes = static_cast<std::size_t>(columns) * bytes_of(storage);
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    const auto row = magnitude_of_row(bytes + static_cast<std::size_t>(i - rows.begin) * row_bytes, columns, storage);
    result.largest = std::max(result.largest, row.largest);
    if (!row.finite) result.nonfinite_rows.push_back(i);
  }
  result.checksums.push_back(xxh3(bytes, static_cast<std::size_t>(rows.count()) * row_bytes));
}

void compute_blocks(Engine& engine, const BlockGrid& grid, const Blocks& blocks, std::int64_t columns,
                    Precision storage, char* buffer, Progress& progress, Assembled& result) {
  const auto row_bytes = columns * static_cast<std::int64_t>(bytes_of(storage));
  const auto step = blocks_worth_a_call(engine, grid);
  const auto first_row = rows_of(grid, blocks).begin;
  for (std::int64_t b = blocks.begin; b < blocks.end; b += step) {
    const Blocks asked{b, std::min(b + step, blocks.end)};
    const Rows rows = rows_of(grid, asked);
    engine.compute(rows, storage, buffer + (rows.begin - first_row) * row_bytes,
                   [&](double done) { progress.advance(done); });
    for (std::int64_t k = asked.begin; k < asked.end; ++k) {
      take_note_of(grid.block(k), buffer + (grid.block(k).begin - first_row) * row_bytes, columns, storage, result);
    }
  }
}

// Blocks for the next buffer: as many as keep ranks from each other for a few seconds.
std::int64_t next_blocks(const Assembled& so_far, std::int64_t least, std::int64_t most) {
  if (so_far.checksums.empty()) return least;
  const double seconds_per_block = so_far.compute_seconds / static_cast<double>(so_far.checksums.size());
  const double fitting = seconds_between_writes / std::max(seconds_per_block, 1e-9);
  return std::clamp(fitting < static_cast<double>(most) ? static_cast<std::int64_t>(fitting) : most, least, most);
}

}  // namespace

Magnitude magnitude_of(const float* numbers, std::int64_t count) {
  return magnitude<std::uint32_t>(numbers, count);
}
Magnitude magnitude_of(const double* numbers, std::int64_t count) {
  return magnitude<std::uint64_t>(numbers, count);
}

std::int64_t blocks_in_memory(const Engine& engine, const BlockGrid& grid, std::int64_t columns, Precision storage,
                              std::uint64_t memory) {
  const auto block = static_cast<std::uint64_t>(bytes_of_block(grid, columns, storage));
  const auto beside = engine.bytes_per_row() * static_cast<std::uint64_t>(grid.rows_per_block());
  const auto fitting = static_cast<std::int64_t>(memory / (block + beside));
  if (fitting < 1) {
    throw InputError(text("--memory of ", memory,
                          " bytes is less than one block of rows takes on a rank: give at least ",
                          (block + beside + (1 << 20) - 1) >> 20, "M"));
  }
  const auto bytes = static_cast<std::int64_t>(block);
  const auto worth = std::max(buffer_bytes / bytes, blocks_worth_a_call(engine, grid));
  return std::clamp<std::int64_t>(std::min(worth, largest_write / bytes), 1, fitting);
}

Assembled assemble(Engine& engine, const BlockGrid& grid, std::int64_t columns, Precision storage,
                   std::int64_t blocks_at_once, HessianWriter& writer, const Communicator& communicator,
                   Progress& progress) {
  const Blocks own = blocks_of_rank(grid, communicator.rank(), communicator.size());
  const auto least = std::min(blocks_worth_a_call(engine, grid), blocks_at_once);
  const auto buffer_size = std::min(blocks_at_once, own.count()) * bytes_of_block(grid, columns, storage);
  // Not filled: pages are touched first by the rows themselves.
  const auto buffer = communicator.together(
      [&] { return std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(buffer_size)); });
  Assembled result;
  std::int64_t next = own.begin;
  while (communicator.max(own.end - next) > 0) {
    const auto count = communicator.min(next < own.end ? next_blocks(result, least, blocks_at_once) : blocks_at_once);
    const Blocks now{next, std::min(next + count, own.end)};
    const auto start = Clock::now();
    communicator.together([&] {
      try {
        compute_blocks(engine, grid, now, columns, storage, buffer.get(), progress, result);
      } catch (const Error& error) {  // whatever it was, it is not the input any more
        throw RunError(error.what());
      }
      result.compute_seconds += seconds_since(start);
    });
    const auto written = Clock::now();
    writer.write(rows_of(grid, now), buffer.get());
    result.write_seconds += seconds_since(written);
    next = now.end;
  }
  return result;
}

}  // namespace hessian_mpi
