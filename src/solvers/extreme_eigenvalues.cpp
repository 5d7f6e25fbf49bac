#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"

#include <slepceps.h>

#include <algorithm>
#include <array>
#include <string>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/residuals.hpp"
#include "petsc.hpp"

namespace hessian_mpi::solvers {
namespace {

using petsc::check;
using SlepcSession = petsc::Session<SlepcInitializeNoArguments, SlepcFinalize>;
using Eigensolver = petsc::Owned<EPS, EPSDestroy>;

// Vectors beside those that are wanted, and how often the method may start again with the best of them.
struct Effort {
  std::int64_t beside;
  PetscInt restarts;
};
// Ends that stand apart from the bulk are found by few vectors, which are looked at more often. Others need many: the
// smallest eigenvalues of a Hessian are the edge of a dense bulk, or as many nearly equal ones as a convolution has
// channels.
constexpr std::array efforts{Effort{25, 12}, Effort{500, 2000}};

std::int64_t vectors_of(const Effort& effort, const ExtremeOptions& options, std::int64_t n) {
  constexpr std::int64_t least_beside = 10;
  const auto least = std::max(2 * options.count, options.count + least_beside);
  const auto wanted = std::max(least, options.count + effort.beside);
  return std::min(n, std::clamp(options.most_vectors, least, wanted));
}

struct EigenvalueWatcher {
  const SymmetricOperator& matrix;
  const std::function<void(std::int64_t, std::int64_t)>& found;
};

PetscErrorCode watch(EPS, PetscInt, PetscInt converged, PetscScalar*, PetscScalar*, PetscReal*, PetscInt,
                     void* context) {
  const auto* watcher = static_cast<EigenvalueWatcher*>(context);
  if (watcher->found) watcher->found(converged, watcher->matrix.passes());
  return 0;
}

void set_start(EPS solver, const petsc::OperatorMatrix& shell, const SymmetricOperator& matrix, std::uint64_t seed) {
  petsc::Vector start;
  shell.make_vector(start);
  PetscScalar* numbers = nullptr;
  check(VecGetArrayWrite(start.get(), &numbers), "VecGetArrayWrite");
  const auto own = random_unit_vectors(matrix, 1, seed);
  std::copy(own.begin(), own.end(), numbers);
  check(VecRestoreArrayWrite(start.get(), &numbers), "VecRestoreArrayWrite");
  check(EPSSetInitialSpace(solver, 1, start.place()), "EPSSetInitialSpace");
}

void set_up(EPS solver, const petsc::OperatorMatrix& shell, const ExtremeOptions& options) {
  check(EPSSetOperators(solver, shell.get(), nullptr), "EPSSetOperators");
  check(EPSSetProblemType(solver, EPS_HEP), "EPSSetProblemType");
  check(EPSSetType(solver, EPSKRYLOVSCHUR), "EPSSetType");
  check(EPSSetWhichEigenpairs(solver, options.end == End::largest ? EPS_LARGEST_REAL : EPS_SMALLEST_REAL),
        "EPSSetWhichEigenpairs");
  // In parts of |A|: near zero, where a Hessian has most of its eigenvalues, none is known to so many digits of its
  // own.
  check(EPSSetConvergenceTest(solver, EPS_CONV_ABS), "EPSSetConvergenceTest");
}

// Collective. How many have converged.
PetscInt solve(EPS solver, const Effort& effort, const petsc::OperatorMatrix& shell, const SymmetricOperator& matrix,
               const ExtremeOptions& options) {
  check(EPSSetDimensions(solver, static_cast<PetscInt>(options.count),
                         static_cast<PetscInt>(vectors_of(effort, options, matrix.size())), PETSC_DEFAULT),
        "EPSSetDimensions");
  check(EPSSetTolerances(solver, options.tolerance * options.norm, effort.restarts), "EPSSetTolerances");
  // What a user adds by PETSC_OPTIONS.
  check(EPSSetFromOptions(solver), "EPSSetFromOptions");
  set_start(solver, shell, matrix, options.seed);
  const auto status = EPSSolve(solver);
  shell.rethrow();
  check(status, "EPSSolve");
  PetscInt converged = 0;
  check(EPSGetConverged(solver, &converged), "EPSGetConverged");
  return converged;
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

}  // namespace

std::int64_t vectors_kept(const ExtremeOptions& options, std::int64_t n) {
  return vectors_of(efforts.back(), options, n);
}

ExtremeEigenvalues extreme_eigenvalues(SymmetricOperator& matrix, const ExtremeOptions& options,
                                       const std::function<void(std::int64_t, std::int64_t)>& found) {
  const SlepcSession session(matrix.communicator());
  const petsc::OperatorMatrix shell(matrix, 0);
  const auto before = matrix.passes();
  Eigensolver solver;
  check(EPSCreate(matrix.communicator().handle(), solver.place()), "EPSCreate");
  set_up(solver.get(), shell, options);
  EigenvalueWatcher watcher{matrix, found};
  check(EPSMonitorSet(solver.get(), watch, &watcher, nullptr), "EPSMonitorSet");
  PetscInt converged = 0;
  for (const auto& effort : efforts) {
    converged = solve(solver.get(), effort, shell, matrix, options);
    if (converged >= options.count) break;
  }
  if (converged < options.count) {
    throw RunError(text("only ", converged, " of ", options.count,
                        options.end == End::largest ? " largest" : " smallest",
                        " eigenvalues converged: allow a larger --tolerance than ", options.tolerance));
  }
  ExtremeEigenvalues result;
  petsc::Vector vector;
  shell.make_vector(vector);
  for (PetscInt k = 0; k < options.count; ++k) get_pair(solver.get(), k, vector, matrix.own().count(), result);
  result.residuals = residuals(matrix, result.values, result.vectors, options.count);
  result.passes = matrix.passes() - before;
  return result;
}

std::string slepc_version() {
  return text("SLEPc ", SLEPC_VERSION_MAJOR, '.', SLEPC_VERSION_MINOR, '.', SLEPC_VERSION_SUBMINOR, ", PETSc ",
              PETSC_VERSION_MAJOR, '.', PETSC_VERSION_MINOR, '.', PETSC_VERSION_SUBMINOR);
}

}  // namespace hessian_mpi::solvers
