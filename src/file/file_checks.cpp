#include "hessian_mpi/file/file_checks.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/file/row_stream.hpp"

namespace hessian_mpi::file {
namespace {

constexpr std::int64_t fewest_sampled_blocks = 32;
constexpr std::int64_t sampled_share = 64;  // one block in so many
// Rows whose numbers in each other's columns are compared: whole rows are read faster than many small pieces.
constexpr std::size_t fewest_rows_for_symmetry = 64;
constexpr std::size_t most_rows_for_symmetry = 256;
// Of diagonal blocks.
constexpr std::int64_t most_sampled_pieces = 64;
constexpr std::size_t fewest_rows_of_piece = 8;
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
int reader_of(std::int64_t block, const std::vector<matrix::SharedBlocks>& written, int ranks) {
  for (const auto& shared : written) {
    const auto& blocks = shared.blocks;
    const auto found = std::lower_bound(blocks.begin(), blocks.end(), block);
    if (found == blocks.end() || *found != block) continue;
    return (shared.owner(static_cast<std::size_t>(found - blocks.begin())) + 1) % ranks;
  }
  return static_cast<int>(block % ranks);
}

struct NumberedBlock {
  std::int64_t number;
  StoredBlock block;
};

matrix::BlockList in_order(const std::vector<std::uint64_t>& numbers) {
  matrix::BlockList blocks(numbers.begin(), numbers.end());
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

// Those on the disk.
std::vector<NumberedBlock> marked_among(const std::vector<StoredBlock>& blocks) {
  std::vector<NumberedBlock> marked;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    if (blocks[b].record.on_disk) marked.push_back({static_cast<std::int64_t>(b), blocks[b]});
  }
  return marked;
}

// Not those that this rank has written, where ranks have written such shares of all in order.
std::vector<NumberedBlock> share_of_marked(const std::vector<NumberedBlock>& marked,
                                           const ranks::Communicator& communicator) {
  const int next = (communicator.rank() + 1) % communicator.size();
  const auto own = matrix::share(static_cast<std::int64_t>(marked.size()), next, communicator.size());
  return {marked.begin() + own.begin, marked.begin() + own.end};
}

// Collective. Which of the blocks of all ranks are not what their checksums say, in order.
matrix::BlockList damaged_among(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                                const std::vector<NumberedBlock>& own, const std::function<void(std::int64_t)>& visited,
                                const ranks::Communicator& communicator) {
  const auto damaged = communicator.together([&] {
    std::vector<Rows> slabs;
    slabs.reserve(own.size());
    for (const auto& [number, block] : own) slabs.push_back(block.rows);
    std::vector<std::uint64_t> found;
    auto next = own.begin();
    RowStream(file, matrix, slabs).each([&](const Slab& slab) {
      const auto& [number, block] = *next++;
      if (xxh3(slab.bytes, slab.size()) != block.record.checksum) found.push_back(static_cast<std::uint64_t>(number));
      if (visited) visited(slab.rows.count());
    });
    return found;
  });
  return in_order(communicator.join(damaged));
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

BlockCheck verify_blocks(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                         const std::vector<BlockRecord>& records, const std::vector<matrix::SharedBlocks>& written,
                         Verify which, const ranks::Communicator& communicator) {
  const auto blocks = blocks_to_check(records, which);
  if (blocks.empty()) return {};
  std::vector<NumberedBlock> own;
  for (const auto b : blocks) {
    if (reader_of(b, written, communicator.size()) != communicator.rank()) continue;
    own.push_back({b, {matrix.grid.block(b), records[static_cast<std::size_t>(b)]}});
  }
  return {static_cast<std::int64_t>(blocks.size()), damaged_among(file, matrix, own, {}, communicator)};
}

BlockCheck verify_stored_blocks(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                                const std::vector<StoredBlock>& blocks,
                                const std::function<void(std::int64_t)>& visited,
                                const ranks::Communicator& communicator) {
  const auto marked = marked_among(blocks);
  const auto own = share_of_marked(marked, communicator);
  return {static_cast<std::int64_t>(marked.size()), damaged_among(file, matrix, own, visited, communicator)};
}

BlockCheck verify_packed_blocks(const std::filesystem::path& file, const matrix::MatrixShape& matrix,
                                const std::vector<StoredBlock>& blocks,
                                const std::function<void(std::int64_t)>& visited,
                                const ranks::Communicator& communicator) {
  const auto marked = marked_among(blocks);
  const auto damaged = communicator.together([&] {
    const auto opened = hdf5::File::open_to_read(file);
    const auto name = MatrixDatasets(opened).name();
    std::vector<std::uint64_t> found;
    for (const auto& [number, block] : share_of_marked(marked, communicator)) {
      const auto begin = static_cast<std::uint64_t>(packed_begin(block.rows.begin, matrix.columns));
      const auto count = static_cast<std::uint64_t>(packed_begin(block.rows.end, matrix.columns)) - begin;
      std::vector<char> bytes(count * bytes_of(matrix.storage));
      opened.read_tile(name, hdf5::type_of(matrix.storage), {begin, 0, count, 1}, bytes.data());
      if (xxh3(bytes.data(), bytes.size()) != block.record.checksum) {
        found.push_back(static_cast<std::uint64_t>(number));
      }
      if (visited) visited(block.rows.count());
    }
    return found;
  });
  return {static_cast<std::int64_t>(marked.size()), in_order(communicator.join(damaged))};
}

std::vector<std::int64_t> sample_for_symmetry(const matrix::ParameterIndex& index, const Rows& part) {
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

std::vector<std::vector<std::int64_t>> samples_of(const matrix::ParameterIndex& index,
                                                  const matrix::MatrixShape& matrix) {
  std::vector<std::vector<std::int64_t>> groups;
  if (matrix.entries == Entries::all) return {sample_for_symmetry(index, matrix.grid.part())};
  if (matrix.entries == Entries::of_samples) {
    return {sample_rows(matrix.grid.part(), static_cast<int>(fewest_rows_for_symmetry))};
  }
  if (matrix.entries == Entries::diagonal) {
    for (const auto row : sample_for_symmetry(index, matrix.grid.part())) groups.push_back({row});
    return groups;
  }
  const auto pieces = matrix.grid.pieces();
  const auto of_each = std::max(fewest_rows_of_piece, fewest_rows_for_symmetry / pieces);
  for (const auto p : draw(static_cast<std::int64_t>(pieces), most_sampled_pieces)) {
    groups.push_back(sample_rows(matrix.grid.piece(static_cast<std::size_t>(p)), static_cast<int>(of_each)));
  }
  return groups;
}

double symmetry_error(const std::filesystem::path& file, const std::vector<std::int64_t>& rows, double largest,
                      const ranks::Communicator& communicator) {
  const auto own = communicator.together([&] {
    const auto numbers =
        crossings(HessianReader(file), matrix::share_of_rank(rows, communicator.rank(), communicator.size()), rows);
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

}  // namespace hessian_mpi::file
