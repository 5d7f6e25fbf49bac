#pragma once
/// A file of what was computed from a Hessian: spectra, solutions. It says where they come from, and gets its name when
/// it is whole.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
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
/// source; datasets as they are added, all in float64.
class ResultFile {
 public:
  /// Collective. bytes: what the file will take, about. Throws InputError where a file of that name is in the way and
  /// not to be replaced, or none can be made.
  ResultFile(const std::filesystem::path& path, bool replace, const ResultOrigin& origin,
             const file::StoredLayout& hessian, std::uint64_t bytes, const ranks::Communicator& communicator);

  /// Collective. numbers: root's, as many as the shape says, row-major. Groups on the way come to be.
  void add(const std::string& dataset, const std::vector<std::uint64_t>& shape, const std::vector<double>& numbers);
  /// Collective. The same for a dataset whose numbers the ranks write with a TileWriter.
  void reserve(const std::string& dataset, const std::vector<std::uint64_t>& shape);
  /// Collective. Attributes of a dataset or group that is there.
  void describe(const std::string& object, const file::Attributes& attributes);

  /// Opens the file on all ranks to write pieces of reserved datasets. Collective, as are its functions.
  class TileWriter {
   public:
    explicit TileWriter(const ResultFile& file);
    ~TileWriter();
    TileWriter(const TileWriter&) = delete;
    TileWriter& operator=(const TileWriter&) = delete;
    /// This rank's tile, row-major, or one without rows. Below 1 GiB.
    void write(const std::string& dataset, const hdf5::Tile& tile, const double* numbers);
    void close();

   private:
    const ranks::Communicator& communicator_;
    hdf5::File file_;
    bool open_ = true;
  };

  /// Collective. Adds the last attributes, brings the file to the disk, gives it its name.
  void publish(const file::Attributes& attributes);

 private:
  void create_groups_to(hdf5::File& file, const std::string& object) const;

  const ranks::Communicator& communicator_;
  std::filesystem::path path_;
  bool replace_;
  Stopwatch watch_;
  std::filesystem::path unfinished_;              // the same on all ranks
  std::unique_ptr<system::UnfinishedFile> file_;  // on root
};

}  // namespace hessian_mpi::after
