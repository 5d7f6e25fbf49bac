#pragma once
/// The lines of the attribute `sums`.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/hdf5/raw_file.hpp"

namespace hessian_mpi::file {

struct SumLine {
  std::string name;
  std::uint64_t sum = 0;
};

/// Those of a file; none where it has none. Throws RunError where the attribute is damaged.
std::vector<SumLine> stored_sums(const std::filesystem::path& path);

/// What the sum of that name is now. Throws RunError where it isn't there.
std::uint64_t sum_of(const hdf5::RawFile& file, const std::string& name);

}  // namespace hessian_mpi::file
