#pragma once
/// Changes to a file that happen wholly or not at all, whenever the process is killed: a copy in memory is edited, what
/// differs is written to a redo log beside the file, then into the file. A library that does not survive a full disk
/// (HDF5 1.10 does not when metadata cannot be written) thus never meets one. Not collective; Linux.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

namespace hessian_mpi::system {

/// Bytes of a file that an edit leaves alone, and that are not copied.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// Hands make the path of a new file in memory, and writes what it has made there, on the disk, to `file`, which must
/// not exist. Throws RunError where that cannot be written.
void make_at_once(const std::filesystem::path& file, const std::function<void(const std::filesystem::path&)>& make);

/// Hands edit the path of a copy in memory, with holes for what is left alone, extents in the order of the file, and
/// takes its changes over. edit closes what it opens. Whatever edit throws leaves the file as it was; RunError where
/// there is no room for the log, or the file can't be written to.
void edit_at_once(const std::filesystem::path& file, const std::vector<Extent>& left_alone,
                  const std::function<void(const std::filesystem::path&)>& edit);

/// The same for a file that nobody takes for whole yet: what interrupts it may leave it torn, and nothing beside it.
void edit_unfinished(const std::filesystem::path& file, const std::vector<Extent>& left_alone,
                     const std::function<void(const std::filesystem::path&)>& edit);

/// Completes an edit of the file that was interrupted; does nothing where there was none. Throws InputError where the
/// log is of another file: its bytes say which it is of, so that a file can be moved and copied together with its log.
/// Throws RunError where the file can't be written to.
void recover_edit(const std::filesystem::path& file);

/// Removes the log of a file that is no longer there: a new one has its name.
void forget_edit(const std::filesystem::path& file);

}  // namespace hessian_mpi::system
