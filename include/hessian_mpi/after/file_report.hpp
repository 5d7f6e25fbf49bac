#pragma once
/// What a file holds, how far its job has come and what is to be done about it: for a person, and as JSON for programs.
/// Works on files that are being written, on parts, and on files that refer to parts. Not collective.

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/after/matrix_product.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/file/file_checks.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/joined_parts.hpp"
#include "hessian_mpi/file/sums.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"

namespace hessian_mpi::after {

/// How the rows lie in the file.
struct RowStorage {
  std::optional<hdf5::Chunks> chunks;        ///< in chunks
  std::vector<hdf5::RowsElsewhere> parts;    ///< in these files, as the file names them
  std::vector<file::WrongPart> wrong_parts;  ///< those of them that are not what was joined
  std::optional<std::uint64_t> bytes;        ///< what the rows take; nothing where they lie in parts
  bool lacks_parts() const;                  ///< some are not there
  bool is_plain() const { return !chunks && parts.empty(); }
};

struct FileReport {
  std::filesystem::path file;
  file::StoredLayout stored;
  RowStorage storage;
  double seconds_since_change = 0;        ///< of the file, as its system says
  std::optional<MatrixFigures> figures;   ///< of the rows on the disk, where they were read
  std::optional<file::BlockCheck> check;  ///< of all blocks on the disk, where they were read
  std::optional<file::SumCheck> sums;     ///< of all else, where it was read
};

/// What a file says of itself, whatever it holds and however far its job has come.
file::StoredLayout read_anything(const std::filesystem::path& file);

/// Reads all but the rows. Throws InputError: no such file, damaged, or none of hessian_mpi's.
FileReport report_on(const std::filesystem::path& file);

/// Blocks that are on the disk, and runs of rows that are not.
matrix::BlockList blocks_on_disk(const file::StoredLayout& stored);
std::vector<Rows> missing_rows(const file::StoredLayout& stored);
/// Whether the file says that it is complete, and that rows are missing.
bool contradicts_itself(const FileReport& report);
/// Whether it is what it says, as far as can be told without the rows: its parts are those that were joined.
bool is_sound(const FileReport& report);
/// The largest |H_ij| of the blocks on the disk.
double largest_entry(const file::StoredLayout& stored);
/// A check, as the attributes of the file say.
file::CheckFigure stored_check(const file::Attributes& attributes, const std::string& name);
/// Runs of rows of damaged blocks.
std::vector<Rows> damaged_rows(const FileReport& report);
/// Those of them that lie in part files, with the file.
struct DamagedPart {
  std::filesystem::path file;
  std::vector<Rows> rows;
};
std::vector<DamagedPart> damaged_parts(const FileReport& report);

void print(std::ostream& out, const FileReport& report);
/// The same as JSON; what is not a number is null.
std::string json_of(const FileReport& report);

}  // namespace hessian_mpi::after
