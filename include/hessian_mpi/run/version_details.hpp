#pragma once
/// What `hessian_mpi --version --verbose` adds to the versions: what a report of a fault needs.

#include <filesystem>
#include <iosfwd>

#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::run {

/// Libraries where they were loaded from, compiler, machine, devices, and the file system that output would be on:
/// those of this rank.
void print_version_details(std::ostream& out, const std::filesystem::path& output, const ranks::Communicator& world);

}  // namespace hessian_mpi::run
