#pragma once
/// What the control groups of this process (cgroups of Linux, version 1 or 2) leave to it: batch systems and containers
/// set their limits there. A group's limit holds for all groups in it, so that those of its parents count too.

#include <cstdint>
#include <filesystem>
#include <limits>

namespace hessian_mpi::system {

struct GroupLimits {
  /// Bytes that its members together can still take; what is cached of files and not in use counts as free.
  std::uint64_t memory = std::numeric_limits<std::uint64_t>::max();
  double cores = std::numeric_limits<double>::infinity();  ///< processor time a second, for all members
};

/// root: where /proc and /sys are.
GroupLimits limits_of_control_groups(const std::filesystem::path& root = "/");

}  // namespace hessian_mpi::system
