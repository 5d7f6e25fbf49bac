#pragma once
/// The rows of a stored matrix, in order, without ever holding more than two slabs of them. Plain reads where the
/// numbers lie one after the other in the file, which the kernel reads ahead; HDF5 where they are in chunks or in part
/// files. The next slab is read on a thread while one is looked at, where the process has a core for that or HDF5
/// reads. Not collective: each rank reads its own rows.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/posix_file.hpp"

namespace hessian_mpi::file {

/// Some whole rows in memory, which belongs to the stream that handed them out: valid until the visit returns.
struct Slab {
  Rows rows;                 ///< of the whole matrix, also where the file is a part
  std::int64_t columns = 0;  ///< entries in each of them
  Precision storage = Precision::float32;
  const char* bytes = nullptr;  ///< rows.count() x columns numbers of the storage type, row-major, as in the file
  std::size_t size() const { return static_cast<std::size_t>(rows.count() * columns) * bytes_of(storage); }
};

/// Hands the slab's numbers to visit, as const float* or const double*.
template <class Visit>
void with_numbers(const Slab& slab, const Visit& visit) {
  if (slab.storage == Precision::float32) {
    visit(reinterpret_cast<const float*>(slab.bytes));
  } else {
    visit(reinterpret_cast<const double*>(slab.bytes));
  }
}

/// A rank's share of the rows that the file holds: contiguous, in the order of ranks, their numbers differing by one at
/// most; none where ranks outnumber rows.
Rows rows_of_rank(const matrix::MatrixShape& matrix, int rank, int ranks);

/// Rows cut into slabs of about 4 MiB, or of four rows up to 64 MiB, at least a row each, and each of one piece of the
/// matrix.
std::vector<Rows> slabs_of(const Rows& rows, const matrix::MatrixShape& matrix);

/// A file, open to read the same slabs once or many times.
class RowStream {
 public:
  /// slabs: rows that the file holds, less than 1 GiB each, in the order in which they are to be visited. matrix: as
  /// read_layout() found it. Throws RunError where the file cannot be opened.
  RowStream(const std::filesystem::path& path, matrix::MatrixShape matrix, std::vector<Rows> slabs);

  /// Visits all slabs. What visit throws ends the pass; RunError where the file cannot be read. HDF5 is not safe among
  /// threads: visit must not call it (hdf5.hpp and what builds on it) unless reads_plainly().
  void each(const std::function<void(const Slab&)>& visit);

  /// Whether HDF5 has no part in reading.
  bool reads_plainly() const;

 private:
  /// Where a slab lies.
  struct Place {
    std::string dataset;
    hdf5::Tile tile;
    std::optional<std::uint64_t> offset;  // in the file, where it can be read plainly
    std::size_t bytes = 0;
  };
  /// What the kernel has been told of in a pass.
  struct ReadAhead {
    bool from_disk = false;  // not all slabs so far were in the page cache
    std::size_t next = 0;    // slab to be announced
    std::size_t bytes = 0;   // of the slabs that are announced and have not been read
  };
  void each_in_turn(const std::function<void(const Slab&)>& visit);
  void each_on_thread(const std::function<void(const Slab&)>& visit);
  Slab slab_at_hand(std::size_t k) const;
  /// The kernel is to read the slab ahead.
  void announce(const Place& place) const;
  void read(std::size_t slab, std::vector<char>& buffer, ReadAhead& ahead) const;
  /// Reads as many of its bytes as are in the page cache, and returns how many those were.
  std::size_t read_cached(const Place& place, std::vector<char>& buffer) const;

  matrix::MatrixShape matrix_;
  std::vector<Rows> slabs_;
  hdf5::File file_;
  std::vector<Place> places_;
  system::PosixFile bytes_;  // the same file
  bool on_thread_ = false;
  std::vector<char> at_hand_;
  std::vector<char> next_;
};

}  // namespace hessian_mpi::file
