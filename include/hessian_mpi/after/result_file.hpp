#pragma once
/// A file of what was computed from a Hessian: spectra, solutions. It says where they come from, and gets its name when
/// it is whole.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/edit_at_once.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::after {

/// What a result is of.
struct ResultOrigin {
  std::string format;            ///< "hessian_mpi spectrum"
  std::filesystem::path source;  ///< the Hessian's file
  std::string command_line;
};

/// "hessian.spectrum.h5" of "hessian.h5" and "spectrum": the result's name where the user gives none.
std::filesystem::path name_of_result(const std::filesystem::path& source, const std::string& kind);

/// The file, from its beginning to publish(). Layout: root attributes format, format_version, source, command_line,
/// created, finished, wall_seconds, N and what publish() is given; the group /hessian with the root attributes of the
/// source; datasets as they are added, all in float64. HDF5 makes it in memory, all but the numbers, and these are
/// written plainly: a disk that is full or fails ends in an error on all ranks, and MPI can be finalised.
class ResultFile {
 public:
  /// Collective. bytes: what the file will take, about; their space is taken now, where the file system can do that.
  /// Throws InputError where a file of that name is in the way and not to be replaced, or none can be made.
  ResultFile(const std::filesystem::path& path, bool replace, const ResultOrigin& origin,
             const file::StoredLayout& hessian, std::uint64_t bytes, const ranks::Communicator& communicator);

  /// Collective. numbers: root's, as many as the shape says, row-major. Groups on the way come to be.
  void add(const std::string& dataset, const std::vector<std::uint64_t>& shape, const std::vector<double>& numbers);
  /// Collective. The same for a dataset whose numbers the ranks write with a TileWriter.
  void reserve(const std::string& dataset, const std::vector<std::uint64_t>& shape);
  /// Collective. Attributes of a dataset or group that is there.
  void describe(const std::string& object, const file::Attributes& attributes);

  /// Opens the file on all ranks to write pieces of a reserved dataset. Collective, as are its functions.
  class TileWriter {
   public:
    TileWriter(const ResultFile& file, const std::string& dataset);
    /// This rank's tile, row-major, or one without rows.
    void write(const hdf5::Tile& tile, const double* numbers);
    /// Returns when all is on the disk.
    void finish();

   private:
    const ranks::Communicator& communicator_;
    system::PosixFile file_;
    std::uint64_t offset_ = 0;   // of the dataset in the file
    std::uint64_t columns_ = 0;  // of the dataset
  };

  /// Collective. Adds the last attributes, brings the file to the disk, gives it its name.
  void publish(const file::Attributes& attributes);

 private:
  // On root. Hands the file to change, in memory.
  void edit(const std::function<void(hdf5::File& file)>& change);
  // On root. The place of a new dataset.
  system::Extent create_dataset(const std::string& dataset, const std::vector<std::uint64_t>& shape);

  const ranks::Communicator& communicator_;
  std::filesystem::path path_;
  bool replace_;
  Stopwatch watch_;
  std::filesystem::path unfinished_;              // the same on all ranks
  std::unique_ptr<system::UnfinishedFile> file_;  // on root
  std::vector<system::Extent> numbers_;           // on root: the places of all datasets, in the order of the file
};

}  // namespace hessian_mpi::after
