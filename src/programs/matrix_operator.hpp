#pragma once
/// What solvers multiply with: a matrix in a file, a block of it, or the matrix of a network.

#include <memory>

#include "block_selection.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/solvers/symmetric_operator.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {

/// Collective. Says what it reads. All of these must outlive the operator.
std::unique_ptr<solvers::SymmetricOperator> operator_of(const OpenedMatrix& opened, const Block& block,
                                                        const ranks::Communicator& world);

}  // namespace hessian_mpi::programs
