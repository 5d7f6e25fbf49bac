#pragma once
/// What a report of a fault tells of the machine that a program runs on.

#include <filesystem>
#include <string>

namespace hessian_mpi::system {

/// Kernel, processor and cores: "Linux 6.1.0, AMD EPYC 7763, 2 of 128 cores".
std::string text_of_machine();

/// The first shared library of this process whose file's name begins so, as it was loaded; empty where there is none.
std::filesystem::path loaded_library(const std::string& name);

/// A file system as it is mounted: "lustre", "10.0.0.1@tcp:/scratch", "/scratch".
struct FileSystem {
  std::string type;
  std::string source;
  std::filesystem::path mounted_at;
};
/// That of a path, of which the end need not be there yet.
FileSystem file_system_of(const std::filesystem::path& path);

}  // namespace hessian_mpi::system
