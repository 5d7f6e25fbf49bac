#pragma once
/// Joins part files, made with --rows, into one file whose /hessian is whole. Not collective, no MPI.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::after {

struct JoinOptions {
  std::vector<std::filesystem::path> parts;  ///< in any order
  std::filesystem::path output = "hessian.h5";
  bool copy = false;  ///< the rows themselves; else a virtual dataset that finds them in the parts
  bool overwrite = false;
  std::string command_line;  ///< as typed, for the file

  system::UsedFiles files() const { return {parts, output}; }
};

/// What was joined.
struct Joined {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::uint64_t bytes = 0;
  /// Over sampled tiles of the whole matrix, across parts; none where rows are samples.
  std::optional<double> symmetry_error;
  std::vector<std::string> warnings;  ///< what the user should know and may accept
};

/// Makes the output from the parts. A copy compares every block with its checksum on the way. Throws InputError that
/// names the file at fault: parts that overlap, leave a gap, are not complete or come from different jobs; an output
/// that exists. Throws RunError where a copied block is damaged or the joined matrix is not symmetric; nothing is left
/// of the output then.
Joined join_parts(const JoinOptions& options);

}  // namespace hessian_mpi::after
