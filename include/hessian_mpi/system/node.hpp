#pragma once
/// What the machine under a rank has: cores, memory, disk. Linux. Depends on nothing.

#include <cstdint>
#include <filesystem>

namespace hessian_mpi::system {

/// Cores of the node that are online, and those that this process may run on (its binding).
int cores_of_node();
int cores_of_process();

/// Bytes of memory that can be used without swapping, now: the node's, or what is left of the control group's limit.
std::uint64_t available_memory();

/// Largest resident memory that this process has had, in bytes.
std::uint64_t peak_memory();

/// Resident memory of this process now, in bytes.
std::uint64_t resident_memory();

/// Bytes an ordinary user can still write to the file system that holds the folder.
std::uint64_t free_disk(const std::filesystem::path& folder);

/// Tells the allocator to keep what is freed: fresh pages for every row cost more than the arithmetic on them.
void keep_freed_memory();

}  // namespace hessian_mpi::system
