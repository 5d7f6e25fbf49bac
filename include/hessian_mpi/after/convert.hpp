#pragma once
/// Copies of a finished file in another form: other numbers, symmetrised, packed, in chunks, compressed; and of a
/// packed one a whole one.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::after {

struct ConvertOptions {
  std::filesystem::path source;
  std::filesystem::path output;
  std::optional<Precision> storage;    ///< of the numbers; as in the source where absent
  bool symmetrise = false;             ///< (H + H^T) / 2
  bool triangle = false;               ///< the upper triangle alone, packed
  std::optional<hdf5::Chunks> chunks;  ///< 0 rows or columns: as many as suit
  std::uint64_t memory = 0;            ///< bytes of a rank, for buffers
  bool overwrite = false;
  std::string command_line;  ///< as typed, for the file

  system::UsedFiles files() const;
};

/// What was written.
struct Converted {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::uint64_t bytes = 0;    ///< of the rows, as they lie in the file
  double symmetry_error = 0;  ///< of the copy, in sampled rows; NaN where it does not have all rows and columns
  double seconds = 0;         ///< of writing, and of reading back
  double seconds_to_check = 0;
};

/// Collective. Makes the output from the source, each rank a share of the rows; no rank needs memory for more than
/// options.memory. All blocks are read back and compared before the copy gets its name. Throws InputError:
/// the source is not complete, or a part where all rows are needed; the output exists, or is the source. Throws
/// RunError where a number is too large for float32, or what was written is not what is read back; nothing is left of
/// the output then.
Converted convert(const ConvertOptions& options, const ranks::Communicator& communicator);

}  // namespace hessian_mpi::after
