#pragma once
/// The parts that a joined file refers to: whether they are still the files that were joined. Not collective.

#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/file/block_table.hpp"

namespace hessian_mpi::file {

/// A part that is not what was joined.
struct WrongPart {
  std::filesystem::path file;  ///< as seen from the joined file
  std::string what;            ///< "is not there", ...
  bool lost = false;           ///< there is no such file
};

/// Where a part lies, as HDF5 looks for it: relative to the file that refers to it, or to what that is a link to.
std::filesystem::path place_of_part(const std::filesystem::path& joined, const std::filesystem::path& part);

/// Compares the ids of the parts, and their tables of row blocks, with what the joined file says, and so on with those
/// of parts that are joined themselves. Nothing of a file whose rows are its own.
std::vector<WrongPart> wrong_parts_of(const hdf5::File& joined);

}  // namespace hessian_mpi::file
