#include "hessian_mpi/file/block_table.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iomanip>
#include <sstream>
#include <utility>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::file {
namespace {

constexpr const char* checksum_dataset = "/blocks/checksum";
constexpr const char* largest_dataset = "/blocks/largest";
constexpr const char* mark_dataset = "/blocks/mark";

// What stands in the file for a block whose record is believed; 0 for one that is not on the disk.
std::uint64_t mark_of(const Rows& rows, const BlockRecord& record) {
  if (!record.on_disk) return 0;
  const std::array<std::uint64_t, 4> content{static_cast<std::uint64_t>(rows.begin),
                                             static_cast<std::uint64_t>(rows.end), record.checksum,
                                             std::bit_cast<std::uint64_t>(record.largest)};
  return xxh3(content.data(), sizeof(content));
}

// Columns of the table of blocks.
struct BlockColumns {
  std::vector<std::int64_t> begin;
  std::vector<std::int64_t> end;
  std::vector<std::uint64_t> checksum;
  std::vector<double> largest;
  std::vector<std::uint64_t> mark;

  explicit BlockColumns(std::size_t count) : begin(count), end(count), checksum(count), largest(count), mark(count) {}
  explicit BlockColumns(const std::vector<StoredBlock>& blocks) : BlockColumns(blocks.size()) {
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      const auto& [rows, record] = blocks[b];
      begin[b] = rows.begin;
      end[b] = rows.end;
      checksum[b] = record.checksum;
      largest[b] = record.largest;
      mark[b] = mark_of(rows, record);
    }
  }
  StoredBlock block(std::size_t b) const {
    StoredBlock block{{begin[b], end[b]}, {checksum[b], largest[b], true}};
    block.record.on_disk = mark[b] == mark_of(block.rows, block.record);
    return block;
  }
  // Hands each column's dataset, type and numbers to visit.
  template <class Visit>
  void each(const Visit& visit) {
    visit("/blocks/begin", hdf5::Type::int64, begin.data());
    visit("/blocks/end", hdf5::Type::int64, end.data());
    visit(checksum_dataset, hdf5::Type::uint64, checksum.data());
    visit(largest_dataset, hdf5::Type::float64, largest.data());
    visit(mark_dataset, hdf5::Type::uint64, mark.data());
  }
};

void throw_damaged(const hdf5::File& file) {
  throw InputError(text("'", file.path().string(), "' is damaged: its table of row blocks"));
}

}  // namespace

std::string sum_of(const std::vector<StoredBlock>& blocks) {
  std::vector<std::uint64_t> numbers;
  for (const auto& [rows, record] : blocks) {
    numbers.insert(numbers.end(),
                   {static_cast<std::uint64_t>(rows.begin), static_cast<std::uint64_t>(rows.end), record.checksum});
  }
  std::ostringstream digits;
  digits << std::hex << std::setfill('0') << std::setw(16) << xxh3(numbers.data(), numbers.size() * 8);
  return digits.str();
}

std::vector<StoredBlock> blocks_of(const matrix::BlockGrid& grid) {
  std::vector<StoredBlock> blocks;
  for (std::int64_t b = 0; b < grid.count(); ++b) blocks.push_back({grid.block(b), {}});
  return blocks;
}

void write_blocks(hdf5::File& file, const std::vector<StoredBlock>& blocks) {
  BlockColumns(blocks).each([&](const char* name, hdf5::Type type, const void* numbers) {
    file.create_dataset(name, type, {blocks.size()});
    file.write(name, type, numbers);
  });
}

void rewrite_blocks(hdf5::File& file, const std::vector<StoredBlock>& blocks) {
  BlockColumns(blocks).each(
      [&](const char* name, hdf5::Type type, const void* numbers) { file.write(name, type, numbers); });
}

std::vector<StoredBlock> read_blocks(const hdf5::File& file) {
  const auto shape = file.shape("/blocks/begin");
  const auto rows = file.shape("/gradient");
  const bool plausible = shape.size() == 1 && !rows.empty() && shape[0] <= rows[0];
  if (!plausible) throw_damaged(file);
  BlockColumns columns(shape[0]);
  columns.each([&](const char* name, hdf5::Type type, void* numbers) {
    if (file.shape(name) != shape) throw_damaged(file);
    file.read(name, type, numbers);
  });
  std::vector<StoredBlock> blocks;
  for (std::size_t b = 0; b < shape[0]; ++b) blocks.push_back(columns.block(b));
  return blocks;
}

bool are_of_grid(const std::vector<StoredBlock>& blocks, const matrix::BlockGrid& grid) {
  std::int64_t next = 0;
  return static_cast<std::int64_t>(blocks.size()) == grid.count() &&
         std::all_of(blocks.begin(), blocks.end(),
                     [&](const StoredBlock& block) { return block.rows == grid.block(next++); });
}

std::vector<BlockRecord> records_of(const std::vector<StoredBlock>& blocks, const matrix::BlockGrid& grid,
                                    const std::filesystem::path& path) {
  std::vector<BlockRecord> records;
  for (std::int64_t b = 0; b < grid.count() && b < static_cast<std::int64_t>(blocks.size()); ++b) {
    const auto& block = blocks[static_cast<std::size_t>(b)];
    if (block.rows != grid.block(b)) break;
    records.push_back(block.record);
  }
  if (static_cast<std::int64_t>(records.size()) != grid.count() || records.size() != blocks.size()) {
    throw InputError(text("'", path.string(), "' has another division into row blocks: ", blocks.size(),
                          " where there are ", grid.count(), " now, the same up to block ", records.size()));
  }
  return records;
}

std::vector<BlockRecord> read_block_records(const std::filesystem::path& path, const matrix::BlockGrid& grid) {
  return records_of(read_blocks(hdf5::File::open_to_read(path)), grid, path);
}

BlockMarks::BlockMarks(const std::filesystem::path& path, matrix::BlockGrid grid)
    : grid_(std::move(grid)), file_(path, O_RDWR) {
  const auto file = hdf5::File::open_to_read(path);
  checksums_ = file.offset_in_file(checksum_dataset);
  largest_ = file.offset_in_file(largest_dataset);
  marks_ = file.offset_in_file(mark_dataset);
}

void BlockMarks::write_at(std::uint64_t offset, std::int64_t first, const void* values, std::size_t count) {
  constexpr std::uint64_t value_bytes = 8;
  file_.write(offset + static_cast<std::uint64_t>(first) * value_bytes, values, count * value_bytes);
}

void BlockMarks::write(std::int64_t first, const std::vector<BlockRecord>& records) {
  std::vector<std::uint64_t> checksums;
  std::vector<double> largest;
  std::vector<std::uint64_t> marks;
  for (const auto& record : records) {
    const auto b = first + static_cast<std::int64_t>(checksums.size());
    checksums.push_back(record.checksum);
    largest.push_back(record.largest);
    marks.push_back(mark_of(grid_.block(b), record));
  }
  write_at(checksums_, first, checksums.data(), records.size());
  write_at(largest_, first, largest.data(), records.size());
  write_at(marks_, first, marks.data(), records.size());
}

}  // namespace hessian_mpi::file
