#pragma once
/// The rows of the matrix in its file: written by all ranks, read by one.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/writeback.hpp"

namespace hessian_mpi::file {

/// The matrix, open for writing on all ranks. A failure of any call is thrown on all ranks, as an AgreedError. Where it
/// is not closed in the end, whatever the reason, it tells the communicator that MPI cannot be finalised.
class HessianWriter {
 public:
  /// Collective over the communicator, which must outlive this object.
  HessianWriter(const std::filesystem::path& path, matrix::MatrixShape matrix, const ranks::Communicator& communicator);
  ~HessianWriter();
  HessianWriter(const HessianWriter&) = delete;
  HessianWriter& operator=(const HessianWriter&) = delete;

  /// Collective. Each rank hands in its own rows, of one piece of the matrix: all of their entries, numbers of the
  /// storage type, row-major; or none. At most 1 GiB a rank.
  void write(const Rows& rows, const void* numbers);

  /// Not collective. Rows that are written from now on are to be read soon: see EarlyWriteback.
  void keep_pages() { writeback_.keep_pages(); }

  /// Collective. Returns when every row that was written is on the disk, as far as the operating system knows.
  void sync();

  /// Collective. Closes the file after a last sync.
  void close();

 private:
  hdf5::File file_;
  MatrixDatasets datasets_;
  PlainOffsets offsets_;
  system::EarlyWriteback writeback_;
  matrix::MatrixShape matrix_;
  bool writes_together_;  // ranks that write rows alone wait for no one
  const ranks::Communicator& communicator_;
  bool open_ = true;
};

/// The matrix, open for reading on one rank. Rows are those of the whole matrix, also where the file is a part. Not
/// collective.
class HessianReader {
 public:
  explicit HessianReader(const std::filesystem::path& path);
  /// The tile's numbers, row-major, converted to double. Of rows that have entries in these columns.
  std::vector<double> tile(const hdf5::Tile& tile) const;
  /// Rows [rows.begin, rows.end) of the block that these ranges of rows and columns make, one after the other:
  /// row-major.
  std::vector<double> rows_of_block(const std::vector<Rows>& ranges, const Rows& rows) const;
  /// Bytes of some rows, of one piece of the matrix, as they lie in the file.
  std::vector<char> bytes(const Rows& rows, const matrix::MatrixShape& matrix) const;
  /// Some columns of some rows, of one piece of the matrix, as numbers of the storage type: [rows][columns].
  void read(const Rows& rows, const Rows& columns, Precision storage, char* numbers) const;

 private:
  hdf5::File file_;
  MatrixDatasets datasets_;
};

}  // namespace hessian_mpi::file
