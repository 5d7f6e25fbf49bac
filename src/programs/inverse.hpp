#pragma once
/// What statistics ask of a matrix: its inverse, or parts of it, and the logarithm of its determinant.

#include <cstdint>

#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "solve_options.hpp"

namespace hessian_mpi::programs {

/// Collective. Makes the file that --inverse and --logdet ask for. memory: bytes that a rank's rows may take. Throws
/// RunError where B is not positive definite and no eigenvalues are to be left out, or a check has failed.
ExitCode inverse(const SolveOptions& options, const file::StoredLayout& hessian, std::uint64_t memory,
                 const ranks::Communicator& world);

}  // namespace hessian_mpi::programs
