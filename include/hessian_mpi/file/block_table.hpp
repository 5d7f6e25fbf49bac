#pragma once
/// The table of blocks in the file: their rows, their checksums, and which of them are on the disk. Not collective.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/system/posix_file.hpp"

namespace hessian_mpi::file {

/// What the file keeps of a block beside its rows.
struct BlockRecord {
  std::uint64_t checksum = 0;  ///< XXH3 of its bytes
  double largest = 0;          ///< its largest |H_ij|
  bool on_disk = false;        ///< false: to be computed; the other two mean nothing
};

/// A block as a file lists it.
struct StoredBlock {
  Rows rows;
  BlockRecord record;
};

/// XXH3 of `begin`, `end` and `checksum` of every block in turn, 24 bytes each, as 16 hexadecimal digits: what a result
/// says of the rows that it was made from.
std::string sum_of(const std::vector<StoredBlock>& blocks);

/// The blocks of a grid, none of them on the disk.
std::vector<StoredBlock> blocks_of(const matrix::BlockGrid& grid);

/// Writes the table into a new file, whose group /blocks is there.
void write_blocks(hdf5::File& file, const std::vector<StoredBlock>& blocks);

/// Writes another table of as many blocks into a file that has one.
void rewrite_blocks(hdf5::File& file, const std::vector<StoredBlock>& blocks);

/// Reads the table. on_disk says what was so at the end of the file's last run. Throws InputError where it is damaged.
std::vector<StoredBlock> read_blocks(const hdf5::File& file);

/// Whether they are the blocks of the grid: those of parts need not be.
bool are_of_grid(const std::vector<StoredBlock>& blocks, const matrix::BlockGrid& grid);

/// The records of blocks that were read from the file. Throws InputError where they are not those of the grid.
std::vector<BlockRecord> records_of(const std::vector<StoredBlock>& blocks, const matrix::BlockGrid& grid,
                                    const std::filesystem::path& path);

/// The same, read from the file.
std::vector<BlockRecord> read_block_records(const std::filesystem::path& path, const matrix::BlockGrid& grid);

/// Marks blocks as being on the disk, by writing into datasets whose space the file has had from the beginning: no
/// metadata of HDF5 changes that a kill could tear. A mark is the XXH3 of what it stands for, so that a torn or a
/// foreign one is not believed. One rank owns it.
class BlockMarks {
 public:
  /// Throws RunError where the file cannot be opened.
  BlockMarks(const std::filesystem::path& path, matrix::BlockGrid grid);

  /// Marks neighbouring blocks, one record each, from first on; takes back the marks of those that are not on_disk. The
  /// rows of the others must be on the disk.
  void write(std::int64_t first, const std::vector<BlockRecord>& records);
  /// Whether the file that they are in still has its name.
  bool are_in(const std::filesystem::path& path) const { return file_.is_at(path); }
  /// Brings the marks to the disk.
  void sync() { file_.sync_data(); }

 private:
  void write_at(std::uint64_t offset, std::int64_t first, const void* values, std::size_t count);

  matrix::BlockGrid grid_;
  std::uint64_t checksums_;  // offsets in the file
  std::uint64_t largest_;
  std::uint64_t marks_;
  system::PosixFile file_;
};

}  // namespace hessian_mpi::file
