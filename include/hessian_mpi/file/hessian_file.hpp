#pragma once
/// The output file but for its rows: what lies where in it, how it comes to be, is read back and finished.
/// Layout: file_format.md, which changes together with this module.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/file/block_table.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::file {

/// Attributes of the root group, by name.
using Attributes = std::vector<std::pair<std::string, std::variant<std::string, std::int64_t, double>>>;

/// The value of that name and kind; null where there is none.
template <class Value>
const Value* find_attribute(const Attributes& attributes, const std::string& name) {
  for (const auto& [key, value] : attributes) {
    if (key == name) return std::get_if<Value>(&value);
  }
  return nullptr;
}

/// Gives an object of a file these attributes.
void set_attributes(hdf5::File& file, const std::string& object, const Attributes& attributes);

/// What a new file is to hold, all but the rows.
struct HessianLayout {
  const matrix::ParameterIndex& index;
  const matrix::MatrixShape& matrix;    ///< the whole, or the part that the file is to hold
  Precision dtype;                      ///< of value and gradient
  const std::vector<double>& value;     ///< theta, N numbers
  const std::vector<double>& gradient;  ///< dL/dtheta, N numbers
  const Attributes& attributes;         ///< `format`, `format_version`, `file_id`, rows and `complete` = 0 are added
};

/// Not collective. Makes the whole file but for the rows, on one rank: all metadata, and the space of the matrix taken
/// from the disk. It comes to be under a name of its own and gets its real one when it is whole, so that neither a
/// failure nor a race touches an existing file; with replace, one that exists is replaced at that moment. Throws
/// InputError: the file exists, the folder doesn't or can't be written to, no room on the disk.
void create_hessian_file(const std::filesystem::path& path, const HessianLayout& layout, bool replace);

/// The same for a file that is to take the place of another one later: until publish() it lies beside it. Without that
/// it is removed.
class NewHessianFile {
 public:
  NewHessianFile(std::filesystem::path path, const HessianLayout& layout, bool replace);
  /// For the time being.
  const std::filesystem::path& path() const { return file_.path(); }
  void publish();

 private:
  std::filesystem::path name_;
  bool replace_;
  system::UnfinishedFile file_;
};

/// How the rows of a copy lie in its file, and the blocks that they are checked by, which need not be those of a grid.
struct RowLayout {
  std::vector<StoredBlock> blocks;
  std::optional<hdf5::Chunks> chunks;  ///< one after the other where there are none
  bool packed = false;  ///< H[i, i:] of every row i, one after the other: /hessian is a vector, `format` another
};

/// Not collective. As create_hessian_file, for a copy.
void create_copy(const std::filesystem::path& path, const HessianLayout& layout, const RowLayout& rows, bool replace);

/// Not collective. Writes the blocks of a copy, whose rows are on the disk, sets attributes, that it is complete, and
/// the sums of all that. For a file that has another name than it is to get.
void finish_copy(const std::filesystem::path& path, const std::vector<StoredBlock>& blocks,
                 const Attributes& attributes);

/// A complete part of a matrix, in a file of its own.
struct PartFile {
  std::filesystem::path path;
  Rows rows;
  std::vector<StoredBlock> blocks;
};

/// Not collective. The id of a file, a random one that it was made with; empty where there is no such file, and in
/// files of version 0.4 and before that were not gone on with since.
std::string file_id(const std::filesystem::path& path);

/// Not collective. As create_hessian_file, a complete file of the rows that lie in parts, which are all rows in order:
/// a virtual dataset that finds them there, or with copy the rows themselves, each block compared with its checksum on
/// the way. look_at gets the file before it has its name and says what attributes to set: where it throws, nothing is
/// left. Throws RunError where a block of a part is damaged.
void create_joined_file(const std::filesystem::path& path, const HessianLayout& layout,
                        const std::vector<PartFile>& parts, bool copy, bool replace,
                        const std::function<Attributes(const std::filesystem::path&)>& look_at);

/// Not collective. Checks what create_hessian_file would need, before anything is computed; throws as it does.
void check_room_for(const std::filesystem::path& path, std::uint64_t bytes, bool replace);

/// Not collective. The same for a copy.
void check_room_for(const std::filesystem::path& path, const matrix::MatrixShape& matrix, const RowLayout& rows,
                    bool replace);

/// Not collective. Takes the space of the rows from the disk again, for a file that was copied with holes. Throws
/// InputError where there is no room.
void retake_space(const std::filesystem::path& path);

/// What a file says of itself, all but the rows.
struct StoredLayout {
  matrix::ParameterIndex index;
  matrix::MatrixShape matrix;
  Precision dtype = Precision::float32;
  std::vector<double> value;
  std::vector<double> gradient;
  std::string file_id;              ///< empty where it has none
  Attributes attributes;            ///< without those that HessianLayout leaves to the file
  std::vector<StoredBlock> blocks;  ///< on_disk as of the end of the file's last run
  bool complete = false;
  bool packed = false;  ///< the upper triangle of matrix alone (RowLayout)
  HessianLayout layout() const { return {index, matrix, dtype, value, gradient, attributes}; }
};

/// What the reader of a file needs it to be: as it is, a complete and whole matrix.
struct Needed {
  bool complete = true;     ///< its job has come to the end
  bool square = true;       ///< of parameters by parameters
  bool all_entries = true;  ///< not diagonal blocks or the diagonal alone
  bool all_rows = true;     ///< not a part
  bool unpacked = true;     ///< not the upper triangle alone
};

/// Not collective. The file, and the parts that it refers to where it is joined: what is read with it. Throws
/// InputError where it is no regular file, and for nothing else.
std::vector<std::filesystem::path> files_of_matrix(const std::filesystem::path& path);

/// Not collective. Throws InputError where there is no such file, where it is damaged, none of hessian_mpi's, or not
/// what is needed: then the message says what it is, and what to do.
StoredLayout read_layout(const std::filesystem::path& path, const Needed& needed = {});

/// Collective. Throws InputError, as ranks::expect_same_files() does, where ranks have read other files under that
/// name: of another id, other parameters, another gradient or, where the file is complete, other rows.
void expect_one_file(const std::filesystem::path& path, const StoredLayout& stored,
                     const ranks::Communicator& communicator);

/// Not collective. Sets the attributes of a finished run and, if it is, that it is complete, with the sums (sums.hpp)
/// of what is in it: wholly or, where the process is killed, not at all once recover_edit (edit_at_once.hpp) has seen
/// the file.
void finish_hessian_file(const std::filesystem::path& path, const Attributes& attributes, bool complete);

/// Not collective. Takes back what finish_hessian_file has said: complete = 0.
void reopen_hessian_file(const std::filesystem::path& path);

}  // namespace hessian_mpi::file
