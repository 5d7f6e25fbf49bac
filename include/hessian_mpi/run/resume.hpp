#pragma once
/// What --resume takes over from an existing file. Not collective.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/file/hessian_file.hpp"

namespace hessian_mpi::run {

/// Threads a rank that the file was begun with: where the user names no other number, it is the one to go on with,
/// since the last digits depend on it. Nothing where there is no such file. Throws InputError: damaged, or another kind
/// of file.
std::optional<int> threads_of_file(const std::filesystem::path& file);

/// What an earlier run has left.
struct Resumed {
  std::vector<file::BlockRecord> records;  ///< one per block of the grid
  bool complete = false;                   ///< nothing is left to do
  std::vector<std::string> warnings;       ///< what the user should know and may accept
};

/// Compares the file with what this job would write and takes over its blocks. Throws InputError that says what
/// differs (same_job.hpp), or how the file is damaged.
Resumed resume_from(const std::filesystem::path& file, const file::HessianLayout& layout);

}  // namespace hessian_mpi::run
