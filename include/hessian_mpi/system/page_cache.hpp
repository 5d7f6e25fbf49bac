#pragma once
/// What this machine's memory holds of files. Depends on nothing.

#include <filesystem>

namespace hessian_mpi::system {

/// Has what is read of the file next come from where it is stored. Network file systems keep pages that this machine
/// has written a part of, without what another one has written into the same page since (GlusterFS does). Of a file
/// that cannot be opened there is nothing to forget.
void forget_pages_of(const std::filesystem::path& path);

}  // namespace hessian_mpi::system
