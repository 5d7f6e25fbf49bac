#pragma once
/// What the machine under a rank has: cores, memory, disk. Linux. Depends on nothing.

#include <cstdint>
#include <filesystem>
#include <set>
#include <vector>

namespace hessian_mpi::system {

/// The processors that a process may run on (its binding): this one, or the one that started it. Of a core with
/// hyperthreads each is one.
std::vector<int> processors_of_process();
std::vector<int> processors_of_parent();

/// The cores of processors. A core's number is that of its first processor.
std::set<int> cores_of(const std::vector<int>& processors);

/// Bytes of memory that can be used without swapping, now: the node's, or what is left of the control groups' limits.
std::uint64_t available_memory();

/// Largest resident memory that this process has had, in bytes.
std::uint64_t peak_memory();

/// Bytes that this process has from the allocator now. What it has freed does not count, though the allocator may keep
/// it: resident memory does not grow where that is used again.
std::uint64_t allocated_memory();

/// Bytes an ordinary user can still write to the file system that holds the folder.
std::uint64_t free_disk(const std::filesystem::path& folder);

/// Tells the allocator to keep what is freed: fresh pages for every row cost more than the arithmetic on them.
void keep_freed_memory();

}  // namespace hessian_mpi::system
