#pragma once
/// XXH3 of all that a complete file holds beside its rows: datasets and attributes, one by one, in an attribute of `/`.
/// Not collective.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace hessian_mpi::file {

struct HessianLayout;

/// The attribute of `/`; empty until the file is complete, and not there in files of earlier versions.
inline constexpr const char* sums_attribute = "sums";

/// Takes the sums of a file, which nobody has open, and writes them into it.
void write_sums(const std::filesystem::path& path);

/// What has another sum than was written: `/gradient`, or `/@loss` for an attribute.
struct SumCheck {
  std::int64_t checked = 0;  ///< 0: the file has no sums
  std::vector<std::string> damaged;
};

/// Of a file that is not complete, what changes before its end is passed over. Throws RunError where it can't be
/// opened.
SumCheck check_sums(const std::filesystem::path& path);

struct Restored {
  std::vector<std::string> back;  ///< what was damaged, and is again what was written
  std::vector<std::string> left;  ///< what is damaged still
};

/// Puts back what is damaged and what the job makes again as it was, which its sum says: nothing else is written into
/// the file.
Restored restore_damaged(const std::filesystem::path& path, const HessianLayout& layout);

}  // namespace hessian_mpi::file
