#pragma once
/// The output file: what lies where in it, how it comes to be, how it is written by all ranks and read by one.
/// Layout: the contract in the README, section 'The file'.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/hdf5.hpp"
#include "hessian_mpi/parameter_index.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

/// Attributes of the root group, by name.
using Attributes = std::vector<std::pair<std::string, std::variant<std::string, std::int64_t, double>>>;

/// What a new file is to hold, all but the rows.
struct HessianLayout {
  const ParameterIndex& index;
  const MatrixShape& matrix;            ///< the whole, or the part that the file is to hold
  Precision dtype;                      ///< of value and gradient
  const std::vector<double>& value;     ///< theta, N numbers
  const std::vector<double>& gradient;  ///< dL/dtheta, N numbers
  const Attributes& attributes;         ///< `format`, `format_version`, rows and `complete` = 0 are added
};

/// Not collective. Makes the whole file but for the rows, on one rank: all metadata, and the space of the matrix taken
/// from the disk. It comes to be under a name of its own and gets its real one when it is whole, so that neither a
/// failure nor a race touches an existing file; with replace, one that exists is replaced at that moment. Throws
/// InputError: the file exists, the folder doesn't or can't be written to, no room on the disk.
void create_hessian_file(const std::filesystem::path& path, const HessianLayout& layout, bool replace);

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

/// A complete part of a matrix, in a file of its own.
struct PartFile {
  std::filesystem::path path;
  Rows rows;
  std::vector<StoredBlock> blocks;
};

/// Not collective. As create_hessian_file, a complete file of the rows that lie in parts, which are all rows in order:
/// a virtual dataset that finds them there, or with copy the rows themselves, each block compared with its checksum on
/// the way. look_at gets the file before it has its name and says what attributes to set: where it throws, nothing is
/// left. Throws RunError where a block of a part is damaged.
void create_joined_file(const std::filesystem::path& path, const HessianLayout& layout,
                        const std::vector<PartFile>& parts, bool copy, bool replace,
                        const std::function<Attributes(const std::filesystem::path&)>& look_at);

/// Not collective. Checks what create_hessian_file would need, before anything is computed; throws as it does.
void check_room_for(const std::filesystem::path& path, std::uint64_t bytes, bool replace);

/// Not collective. Takes the space of the rows from the disk again, for a file that was copied with holes. Throws
/// InputError where there is no room.
void retake_space(const std::filesystem::path& path, std::uint64_t bytes);

/// A POSIX file descriptor for reading and writing an existing file, closed on destruction.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&&) = delete;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  /// Negative where the file could not be opened; errno says why.
  int id() const { return id_; }

 private:
  int id_;
};

/// Brings bytes of a file to the disk while the next ones are made, and then gives their pages back. The page cache
/// stays small and warm, instead of taking as much memory as the file is long, and the last sync has little left to do.
/// Not collective.
class EarlyWriteback {
 public:
  /// Throws RunError where the file cannot be opened.
  explicit EarlyWriteback(const std::filesystem::path& path);

  /// Writes bytes itself, for files that are not open through MPI-IO. Throws RunError.
  void write(std::uint64_t offset, const std::vector<char>& bytes);

  /// Starts to write back bytes that were just written, and waits for those of the call before. Throws RunError where
  /// these did not reach the disk.
  void start(std::uint64_t offset, std::uint64_t bytes);
  /// Waits for the last bytes; throws as start() does.
  void finish();
  /// Returns when all that any process of this node has written is on the disk. Throws RunError where it isn't.
  void sync();

 private:
  std::filesystem::path path_;
  Descriptor descriptor_;
  std::uint64_t offset_ = 0;
  std::uint64_t bytes_ = 0;
};

/// The matrix, open for writing on all ranks.
class HessianWriter {
 public:
  /// Collective over the communicator, which must outlive this object.
  HessianWriter(const std::filesystem::path& path, const MatrixShape& matrix, const Communicator& communicator);

  /// Collective. Each rank hands in its own rows: rows.count() x N numbers of the storage type, row-major; or none.
  /// A failure on any rank is thrown on all. At most 1 GiB a rank.
  void write(const Rows& rows, const void* numbers);

  /// Collective. Returns when every row that was written is on the disk, as far as the operating system knows.
  void sync();

  /// Collective. Closes the file after a last sync.
  void close();

 private:
  hdf5::File file_;
  std::uint64_t offset_;  // of the matrix in the file
  EarlyWriteback writeback_;
  MatrixShape matrix_;
  const Communicator& communicator_;
};

/// The matrix, open for reading on one rank. Rows are those of the whole matrix, also where the file is a part. Not
/// collective.
class HessianReader {
 public:
  explicit HessianReader(const std::filesystem::path& path);
  /// The tile's numbers, row-major, converted to double.
  std::vector<double> tile(const hdf5::Tile& tile) const;
  /// Bytes of some rows as they lie in the file: rows.count() x N numbers of the storage type.
  std::vector<char> bytes(const Rows& rows, const MatrixShape& matrix) const;

 private:
  hdf5::File file_;
  std::uint64_t first_row_;
};

/// Marks blocks as being on the disk, by writing into datasets whose space the file has had from the beginning: no
/// metadata of HDF5 changes that a kill could tear. A mark is the XXH3 of what it stands for, so that a torn or a
/// foreign one is not believed. One rank owns it. Not collective.
class BlockMarks {
 public:
  /// Throws RunError where the file cannot be opened.
  BlockMarks(const std::filesystem::path& path, BlockGrid grid);

  /// Marks neighbouring blocks, one record each, from first on; takes back the marks of those that are not on_disk. The
  /// rows of the others must be on the disk.
  void write(std::int64_t first, const std::vector<BlockRecord>& records);
  /// Brings the marks to the disk.
  void sync();

 private:
  void write_at(std::uint64_t offset, std::int64_t first, const void* values, std::size_t count);

  std::filesystem::path path_;
  BlockGrid grid_;
  std::uint64_t checksums_;  // offsets in the file
  std::uint64_t largest_;
  std::uint64_t marks_;
  Descriptor descriptor_;
};

/// What a file says of itself, all but the rows.
struct StoredLayout {
  ParameterIndex index;
  MatrixShape matrix;
  Precision dtype = Precision::float32;
  std::vector<double> value;
  std::vector<double> gradient;
  Attributes attributes;            ///< without those that HessianLayout leaves to the file
  std::vector<StoredBlock> blocks;  ///< on_disk as of the end of the file's last run
  bool complete = false;
  HessianLayout layout() const { return {index, matrix, dtype, value, gradient, attributes}; }
};

/// Not collective. Throws InputError where the file is damaged or none of hessian_mpi's.
StoredLayout read_layout(const std::filesystem::path& path);

/// Not collective. The records of all blocks, those marked that were on the disk when the file's last run ended. Throws
/// InputError where the file's blocks are not those of the grid.
std::vector<BlockRecord> read_block_records(const std::filesystem::path& path, const BlockGrid& grid);

/// Not collective. Sets the attributes of a finished run and, if it is, that it is complete: wholly or, where the
/// process is killed, not at all once recover_edit (edit_at_once.hpp) has seen the file.
void finish_hessian_file(const std::filesystem::path& path, const Attributes& attributes, bool complete);

/// Not collective. Takes back what finish_hessian_file has said: complete = 0.
void reopen_hessian_file(const std::filesystem::path& path);

}  // namespace hessian_mpi
