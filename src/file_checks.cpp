#include "hessian_mpi/file_checks.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <random>
#include <set>

#include "hessian_mpi/checksum.hpp"
#include "hessian_mpi/hessian_rows.hpp"

namespace hessian_mpi {
namespace {

constexpr std::int64_t fewest_sampled_blocks = 32;
constexpr std::int64_t sampled_share = 64;  // one block in so many
// The disk reads so many at once, while they are looked at one by one.
constexpr std::size_t blocks_announced = 16;
// Rows whose numbers in each other's columns are compared: whole rows are read faster than many small pieces.
constexpr std::size_t fewest_rows_for_symmetry = 64;
constexpr std::size_t most_rows_for_symmetry = 256;
constexpr std::uint64_t sampling_seed = 20260611;

// The same numbers on every rank and in every run: a check that fails can be looked at again.
std::mt19937_64 generator() {
  return std::mt19937_64(sampling_seed);
}

std::set<std::int64_t> draw(std::int64_t below, std::int64_t count) {
  auto random = generator();
  std::uniform_int_distribution<std::int64_t> any(0, below - 1);
  std::set<std::int64_t> drawn;
  while (static_cast<std::int64_t>(drawn.size()) < std::min(count, below)) drawn.insert(any(random));
  return drawn;
}

std::set<std::int64_t> blocks_to_check(const std::vector<BlockRecord>& records, Verify which) {
  if (which == Verify::none) return {};
  const auto count = static_cast<std::int64_t>(records.size());
  auto blocks = draw(count, which == Verify::all ? count : std::max(fewest_sampled_blocks, count / sampled_share));
  std::erase_if(blocks, [&](std::int64_t b) { return !records[static_cast<std::size_t>(b)].on_disk; });
  return blocks;
}

// Another rank than the one that wrote the block in this run.
int reader_of(std::int64_t block, const std::vector<SharedBlocks>& written, int ranks) {
  for (const auto& shared : written) {
    const auto& blocks = shared.blocks;
    const auto found = std::lower_bound(blocks.begin(), blocks.end(), block);
    if (found == blocks.end() || *found != block) continue;
    return (shared.owner(static_cast<std::size_t>(found - blocks.begin())) + 1) % ranks;
  }
  return static_cast<int>(block % ranks);
}

// The numbers that some rows, in order, have in the columns of `rows`: one read for each row.
std::vector<double> crossings(const HessianReader& reader, const std::vector<std::int64_t>& some,
                              const std::vector<std::int64_t>& rows) {
  const auto first = static_cast<std::uint64_t>(rows.front());
  const auto width = static_cast<std::uint64_t>(rows.back() - rows.front() + 1);
  std::vector<double> numbers;
  for (const auto i : some) {
    const auto row = reader.tile({static_cast<std::uint64_t>(i), first, 1, width});
    for (const auto j : rows) numbers.push_back(row[static_cast<std::size_t>(j - rows.front())]);
  }
  return numbers;
}

// Largest |H_ij - H_ji| of a square matrix; infinite where one is not a number.
double asymmetry(const std::vector<double>& square, std::size_t side) {
  double worst = 0;
  for (std::size_t i = 0; i < side; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const double difference = std::abs(square[i * side + j] - square[j * side + i]);
      worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(worst, difference);
    }
  }
  return worst;
}

}  // namespace

BlockCheck verify_blocks(const std::filesystem::path& file, const MatrixShape& matrix,
                         const std::vector<BlockRecord>& records, const std::vector<SharedBlocks>& written,
                         Verify which, const Communicator& communicator) {
  const auto blocks = blocks_to_check(records, which);
  if (blocks.empty()) return {};
  std::vector<std::int64_t> own;
  std::copy_if(blocks.begin(), blocks.end(), std::back_inserter(own),
               [&](std::int64_t b) { return reader_of(b, written, communicator.size()) == communicator.rank(); });
  const auto damaged = communicator.together([&] {
    const HessianReader reader(file);
    std::vector<std::uint64_t> found;
    for (std::size_t k = 0, announced = 0; k < own.size(); ++k) {
      for (; announced < std::min(k + blocks_announced, own.size()); ++announced) {
        reader.announce(matrix.grid.block(own[announced]), matrix);
      }
      const auto b = own[k];
      const auto bytes = reader.bytes(matrix.grid.block(b), matrix);
      if (xxh3(bytes.data(), bytes.size()) != records[static_cast<std::size_t>(b)].checksum) {
        found.push_back(static_cast<std::uint64_t>(b));
      }
    }
    return found;
  });
  const auto all = communicator.join(damaged);
  BlockCheck result{static_cast<std::int64_t>(blocks.size()), {all.begin(), all.end()}};
  std::sort(result.damaged.begin(), result.damaged.end());
  return result;
}

std::vector<std::int64_t> sample_for_symmetry(const ParameterIndex& index, const Rows& part) {
  std::vector<Rows> present;
  for (const auto& entry : index.entries()) {
    const Rows rows{std::max(entry.offset, part.begin), std::min(entry.offset + entry.size, part.end)};
    if (rows.count() > 0) present.push_back(rows);
  }
  if (present.size() > most_rows_for_symmetry) return sample_rows(part, static_cast<int>(most_rows_for_symmetry));
  const auto of_each = std::max<std::size_t>(1, fewest_rows_for_symmetry / present.size());
  std::vector<std::int64_t> sample;
  for (const auto& rows : present) {
    for (const auto row : sample_rows(rows, static_cast<int>(of_each))) sample.push_back(row);
  }
  return sample;
}

double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest,
                      const Communicator& communicator) {
  const auto own = communicator.together([&] {
    const auto numbers =
        crossings(HessianReader(file), share_of_rank(rows, communicator.rank(), communicator.size()), rows);
    std::vector<std::uint64_t> bits(numbers.size());
    std::transform(numbers.begin(), numbers.end(), bits.begin(),
                   [](double x) { return std::bit_cast<std::uint64_t>(x); });
    return bits;
  });
  std::vector<double> square;
  for (const auto bits : communicator.join(own)) square.push_back(std::bit_cast<double>(bits));
  const double worst = asymmetry(square, rows.size());
  return largest > 0 ? worst / largest : worst;
}

double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest) {
  const double worst = asymmetry(crossings(HessianReader(file), rows, rows), rows.size());
  return largest > 0 ? worst / largest : worst;
}

std::vector<std::int64_t> sample_rows(const Rows& rows, int count) {
  std::vector<std::int64_t> sample;
  for (const auto k : draw(rows.count(), count)) sample.push_back(rows.begin + k);
  return sample;
}

}  // namespace hessian_mpi
