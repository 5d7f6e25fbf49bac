#include "hessian_mpi/extreme_eigenvalues.hpp"

#include <slepceps.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/lanczos.hpp"
#include "petsc.hpp"

namespace hessian_mpi {
namespace {

using petsc::check;
using Session = petsc::Session<SlepcInitializeNoArguments, SlepcFinalize>;
using Solver = petsc::Owned<EPS, EPSDestroy>;

struct Watcher {
  const SymmetricOperator& matrix;
  const std::function<void(std::int64_t, std::int64_t)>& found;
};

PetscErrorCode watch(EPS, PetscInt, PetscInt converged, PetscScalar*, PetscScalar*, PetscReal*, PetscInt,
                     void* context) {
  const auto* watcher = static_cast<Watcher*>(context);
  if (watcher->found) watcher->found(converged, watcher->matrix.passes());
  return 0;
}

void set_start(EPS solver, const petsc::OperatorMatrix& shell, const SymmetricOperator& matrix, std::uint64_t seed) {
  petsc::Vector start;
  shell.make_vector(start);
  PetscScalar* numbers = nullptr;
  check(VecGetArrayWrite(start.get(), &numbers), "VecGetArrayWrite");
  const auto own = random_signs(matrix, 1, seed);
  std::copy(own.begin(), own.end(), numbers);
  check(VecRestoreArrayWrite(start.get(), &numbers), "VecRestoreArrayWrite");
  check(EPSSetInitialSpace(solver, 1, start.place()), "EPSSetInitialSpace");
}

void set_up(EPS solver, const petsc::OperatorMatrix& shell, std::int64_t n, const ExtremeOptions& options) {
  constexpr PetscInt most_iterations = 2000;
  check(EPSSetOperators(solver, shell.get(), nullptr), "EPSSetOperators");
  check(EPSSetProblemType(solver, EPS_HEP), "EPSSetProblemType");
  check(EPSSetType(solver, EPSKRYLOVSCHUR), "EPSSetType");
  check(EPSSetWhichEigenpairs(solver, options.end == End::largest ? EPS_LARGEST_REAL : EPS_SMALLEST_REAL),
        "EPSSetWhichEigenpairs");
  check(EPSSetDimensions(solver, static_cast<PetscInt>(options.count),
                         static_cast<PetscInt>(vectors_kept(options.count, n)), PETSC_DEFAULT),
        "EPSSetDimensions");
  // In parts of |A|: near zero, where a Hessian has most of its eigenvalues, none is known to so many digits of its
  // own.
  check(EPSSetConvergenceTest(solver, EPS_CONV_ABS), "EPSSetConvergenceTest");
  check(EPSSetTolerances(solver, options.tolerance * options.norm, most_iterations), "EPSSetTolerances");
  // What a user adds by PETSC_OPTIONS.
  check(EPSSetFromOptions(solver), "EPSSetFromOptions");
}

void get_pair(EPS solver, PetscInt k, petsc::Vector& vector, std::int64_t own, ExtremeEigenvalues& result) {
  PetscScalar value = 0;
  check(EPSGetEigenpair(solver, k, &value, nullptr, vector.get(), nullptr), "EPSGetEigenpair");
  const PetscScalar* numbers = nullptr;
  check(VecGetArrayRead(vector.get(), &numbers), "VecGetArrayRead");
  result.values.push_back(value);
  result.vectors.insert(result.vectors.end(), numbers, numbers + own);
  check(VecRestoreArrayRead(vector.get(), &numbers), "VecRestoreArrayRead");
}

// Norms of A v - value v.
std::vector<double> residuals_of(SymmetricOperator& matrix, const ExtremeEigenvalues& pairs) {
  std::vector<double> products(pairs.vectors.size());
  matrix.multiply(pairs.vectors.data(), static_cast<std::int64_t>(pairs.values.size()), products.data());
  const auto own = static_cast<std::size_t>(matrix.own().count());
  std::vector<double> squares(pairs.values.size());
  for (std::size_t k = 0; k < squares.size(); ++k) {
    for (std::size_t i = k * own; i < (k + 1) * own; ++i) {
      squares[k] += std::pow(products[i] - pairs.values[k] * pairs.vectors[i], 2);
    }
  }
  squares = matrix.communicator().sum(std::move(squares));
  for (auto& square : squares) square = std::sqrt(square);
  return squares;
}

}  // namespace

std::int64_t vectors_kept(std::int64_t count, std::int64_t n) {
  // The smallest eigenvalues of a Hessian are the edge of a dense bulk: with SLEPc's 15 beside them, restarts lose what
  // tells them apart.
  constexpr std::int64_t beside = 60;
  return std::min(n, std::max(2 * count, count + beside));
}

ExtremeEigenvalues extreme_eigenvalues(SymmetricOperator& matrix, const ExtremeOptions& options,
                                       const std::function<void(std::int64_t, std::int64_t)>& found) {
  const Session session(matrix.communicator());
  const petsc::OperatorMatrix shell(matrix, 0);
  const auto before = matrix.passes();
  Solver solver;
  check(EPSCreate(matrix.communicator().handle(), solver.place()), "EPSCreate");
  set_up(solver.get(), shell, matrix.size(), options);
  set_start(solver.get(), shell, matrix, options.seed);
  Watcher watcher{matrix, found};
  check(EPSMonitorSet(solver.get(), watch, &watcher, nullptr), "EPSMonitorSet");
  const auto status = EPSSolve(solver.get());
  shell.rethrow();
  check(status, "EPSSolve");
  PetscInt converged = 0;
  check(EPSGetConverged(solver.get(), &converged), "EPSGetConverged");
  if (converged < options.count) {
    throw RunError(text("only ", converged, " of ", options.count,
                        options.end == End::largest ? " largest" : " smallest",
                        " eigenvalues converged: allow a larger --tolerance than ", options.tolerance));
  }
  ExtremeEigenvalues result;
  petsc::Vector vector;
  shell.make_vector(vector);
  for (PetscInt k = 0; k < options.count; ++k) get_pair(solver.get(), k, vector, matrix.own().count(), result);
  result.residuals = residuals_of(matrix, result);
  result.passes = matrix.passes() - before;
  return result;
}

std::string slepc_version() {
  return text("SLEPc ", SLEPC_VERSION_MAJOR, '.', SLEPC_VERSION_MINOR, '.', SLEPC_VERSION_SUBMINOR, ", PETSc ",
              PETSC_VERSION_MAJOR, '.', PETSC_VERSION_MINOR, '.', PETSC_VERSION_SUBMINOR);
}

}  // namespace hessian_mpi
