#pragma once
/// The command line of hessian_solve as a plain struct.

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/solvers/linear_solve.hpp"
#include "matrix_options.hpp"

namespace hessian_mpi::programs {

/// What is wanted of the inverse of B = scale A + damping I.
struct InverseOptions {
  std::vector<std::string> of;  ///< "diagonal", "all", or patterns of parameters; none: not asked for
  bool log_determinant = false;
  std::optional<double> pseudo;  ///< eigenvalues up to this part of the largest are left out
  double scale = 1;
  std::optional<std::string> sandwich;  ///< F's file

  bool wanted() const { return !of.empty() || log_determinant; }
};

struct SolveOptions : MatrixOptions {
  std::optional<std::string> right_sides;  ///< a file; minus the gradient where absent
  double damping = 0;
  std::optional<solvers::Solver> solver;  ///< dense where it fits where absent
  solvers::IterationOptions iteration;
  std::optional<double> tolerance;  ///< of iterations; usual_tolerance() where absent
  InverseOptions inverse;
  std::vector<std::string> blocks;  ///< names, as blocks_named() takes them

  system::UsedFiles files() const;
};

/// Throws InputError naming the option at fault.
SolveOptions parse_solve_options(int argc, const char* const* argv);

/// The text of --help.
void print_solve_help(std::ostream& out);

}  // namespace hessian_mpi::programs
