#pragma once
/// The limit of `ulimit -f`. Not collective; Linux.

#include <cstdint>

namespace hessian_mpi::system {

/// Lets a write beyond it fail as one to a full disk does, instead of ending the process without a word.
void ignore_file_size_signal();

/// Bytes that a file of this process may have.
std::uint64_t largest_file();

}  // namespace hessian_mpi::system
