#pragma once
/// What programs that compute from a matrix do before they begin: open it, and say what will be taken.

#include <cstdint>
#include <functional>
#include <string>

#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/solvers/dense_eigensolver.hpp"
#include "matrix_options.hpp"
#include "open_network.hpp"

namespace hessian_mpi::programs {

/// Collective. Reads what solvers need, but for the rows, of options.file, or loads the network, says what it is, and
/// has BLAS use the threads of the options. program: its name, for warnings. between: as products::Network has it.
/// Options and communicator must outlive it.
OpenedMatrix open_matrix(const char* program, const MatrixOptions& options, const ranks::Communicator& world,
                         std::function<void()> between);

/// Of residuals, where the user names none: in float32 products of a network round.
double usual_tolerance(const OpenedMatrix& opened);

/// Throws InputError where the options name a network. what: that takes a whole matrix, such as "--block".
void expect_file(const MatrixOptions& options, const char* what);

/// "135 MB a rank, 4.6e+07 operations, about 0.0 s".
std::string text_of_cost(const solvers::DecompositionCost& cost);

/// The damping, rounded up, from which a matrix is positive definite whose smallest eigenvalue is that with this
/// damping.
double damping_needed(double smallest, double damping);

}  // namespace hessian_mpi::programs
