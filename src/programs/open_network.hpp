#pragma once
/// A network opened in the place of a file.

#include <functional>
#include <memory>

#include "hessian_mpi/products/network.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "matrix_options.hpp"

namespace hessian_mpi::programs {

/// Collective. Loads it and says what it is; program: the name, for warnings. between: as products::Network has it.
/// Options and communicator must outlive it.
std::unique_ptr<products::Network> open_network(const char* program, const MatrixOptions& options,
                                                std::function<void()> between, const ranks::Communicator& world);

}  // namespace hessian_mpi::programs
