#include "hessian_mpi/checks.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "hessian_mpi/checksum.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/hessian_rows.hpp"
#include "hessian_mpi/jacobian_rows.hpp"

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

// Row i, from one element selected out of the concatenated gradient.
std::vector<double> row_from_concatenated_gradient(const Problem& problem, std::int64_t i) {
  const auto n = problem.index().size();
  std::vector<double> row(static_cast<std::size_t>(n), 0.0);
  const auto sum = torch::from_blob(row.data(), {n}, torch::kFloat64);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    auto gradient = problem.gradient(b, /*create_graph=*/true);
    for (std::size_t p = 0; p < gradient.size(); ++p) {
      if (!gradient[p].defined()) gradient[p] = torch::zeros_like(problem.parameters()[p]);
      gradient[p] = gradient[p].to_dense();
      if (b == 0 && problem.l2() != 0) gradient[p] = gradient[p] + problem.l2() * problem.parameters()[p];
      gradient[p] = gradient[p].reshape(-1);
    }
    const auto element = torch::cat(gradient).select(0, i);
    if (!element.requires_grad()) continue;
    const auto parts = torch::autograd::grad({element}, problem.parameters(), {}, false, false, /*allow_unused=*/true);
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const auto& entry = problem.index().entries()[p];
      if (parts[p].defined()) sum.narrow(0, entry.offset, entry.size).add_(parts[p].to_dense().reshape(-1));
    }
  }
  return row;
}

std::vector<double> row_again(const Problem& problem, Matrix matrix, std::int64_t i) {
  if (matrix == Matrix::hessian) return row_from_concatenated_gradient(problem, i);
  std::vector<double> row(static_cast<std::size_t>(problem.index().size()));
  JacobianRows(problem, matrix).compute({i, i + 1}, Precision::float64, row.data(), [](double) {});
  if (matrix == Matrix::ggn) row[static_cast<std::size_t>(i)] += problem.l2();
  return row;
}

double largest_of(const std::vector<double>& numbers) {
  double largest = 0;
  for (const double x : numbers) largest = std::max(largest, std::abs(x));
  return largest;
}

// Infinite where the difference is not a number: max() alone would pass over it.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    const double difference = std::abs(a[k] - b[k]);
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

std::vector<double> row_of_file(const HessianReader& reader, std::int64_t i, std::int64_t columns) {
  return reader.tile({static_cast<std::uint64_t>(i), 0, 1, static_cast<std::uint64_t>(columns)});
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

double row_error(const std::filesystem::path& file, const Problem& problem, Matrix matrix,
                 const std::vector<std::int64_t>& rows, double largest, const Communicator& communicator) {
  constexpr double floor_of_scale = 1e-2;
  const double worst = communicator.together([&] {
    const HessianReader reader(file);
    double found = 0;
    for (std::size_t k = 0; k < rows.size(); ++k) {
      if (static_cast<int>(k % static_cast<std::size_t>(communicator.size())) != communicator.rank()) continue;
      const auto again = row_again(problem, matrix, rows[k]);
      const auto stored = row_of_file(reader, rows[k], problem.index().size());
      const double scale = std::max({largest_of(again), floor_of_scale * largest});
      const double difference = largest_difference(again, stored);
      if (difference > 0) found = std::max(found, difference / scale);
    }
    return found;
  });
  return communicator.max(worst);
}

Tolerances tolerances_of(Precision precision) {
  if (precision == Precision::float32) return {1e-3, 1e-3, {1e-3, 1e-2}};
  return {1e-8, 1e-8, {1e-4, 1e-4}};
}

}  // namespace hessian_mpi
