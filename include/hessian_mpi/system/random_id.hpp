#pragma once
/// Ids that no two files share. Not collective; Linux.

#include <string>

namespace hessian_mpi::system {

/// A random UUID: "3f6c9a52-8d1e-4b7a-9c55-0e2d6f1a7b34". Throws RunError where the kernel offers none.
std::string random_id();

}  // namespace hessian_mpi::system
