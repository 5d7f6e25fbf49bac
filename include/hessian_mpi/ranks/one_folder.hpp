#pragma once
/// Whether all ranks see one folder behind a path, and one file. Ranks may be started in different folders, and nodes
/// mount different file systems under one name.

#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::ranks {

/// Collective. Root puts a file with a random id beside `path`, and every rank reads it back: device numbers would say
/// nothing, for they differ between nodes. Throws InputError that names the folders and hosts where a rank does not
/// find it, RunError where root can make no file there.
void expect_one_folder(const std::filesystem::path& path, const Communicator& communicator);

/// A file, and what tells it from others that may have its name elsewhere: its id, a sum of what was read. Copies are
/// as good as the file.
struct SeenFile {
  std::filesystem::path path;
  std::string content;
};

/// Collective. Throws InputError that names the folders and hosts where a rank has seen another file than root.
void expect_same_files(const std::vector<SeenFile>& files, const Communicator& communicator);

/// Collective. The same of what the files hold, which one rank of a node reads for all of its ranks that see them:
/// these find them in the node's memory when they read them in turn. A file that cannot be read is as any other such.
void expect_same_contents(std::vector<std::filesystem::path> files, const Communicator& communicator);

}  // namespace hessian_mpi::ranks
