#pragma once
/// Whether all ranks see one folder behind a path. Ranks may be started in different folders, and nodes mount different
/// file systems under one name.

#include <filesystem>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::ranks {

/// Collective. Root puts a file with a random id beside `path`, and every rank reads it back: device numbers would say
/// nothing, for they differ between nodes. Throws InputError that names the folders and hosts where a rank does not
/// find it, RunError where root can make no file there.
void expect_one_folder(const std::filesystem::path& path, const Communicator& communicator);

}  // namespace hessian_mpi::ranks
