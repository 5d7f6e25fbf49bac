#include "hessian_mpi/solvers/linear_solve.hpp"

#include <petscksp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"
#include "hessian_mpi/solvers/cholesky.hpp"
#include "petsc.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

using petsc::check;
using PetscSession = petsc::Session<PetscInitializeNoArguments, PetscFinalize>;
using Iteration = petsc::Owned<KSP, KSPDestroy>;

double norm(const double* numbers, std::int64_t count) {
  return std::sqrt(std::inner_product(numbers, numbers + count, numbers, 0.0));
}

double one_norm(const DistributedMatrix& matrix) {
  const int n = matrix.rows();
  std::vector<double> work(static_cast<std::size_t>(matrix.own_columns() + matrix.block()));
  return pdlange_("1", &n, &n, matrix.data(), &first_index, &first_index, matrix.descriptor().data(), work.data());
}

// LU factors in place of the matrix; which rows were exchanged.
std::vector<int> factorise(DistributedMatrix& matrix) {
  const int n = matrix.rows();
  std::vector<int> pivots(static_cast<std::size_t>(matrix.own_rows() + matrix.block()));
  int info = 0;
  pdgetrf_(&n, &n, matrix.data(), &first_index, &first_index, matrix.descriptor().data(), pivots.data(), &info);
  if (info < 0) throw RunError(text("ScaLAPACK's pdgetrf failed with info = ", info));
  if (info > 0) throw RunError("the matrix is singular: add a --damping");
  return pivots;
}

// Collective. By the factors.
std::vector<double> solved(const DistributedMatrix& factors, const std::vector<int>& pivots,
                           const RightSides& right_sides, const ranks::Communicator& communicator) {
  auto sides = spread(right_sides, factors);
  const int n = factors.rows();
  const int count = sides.columns();
  int info = 0;
  pdgetrs_("N", &n, &count, factors.data(), &first_index, &first_index, factors.descriptor().data(), pivots.data(),
           sides.data(), &first_index, &first_index, sides.descriptor().data(), &info);
  if (info != 0) throw RunError(text("ScaLAPACK's pdgetrs failed with info = ", info));
  return gathered(sides, communicator);
}

struct IterationWatcher {
  double norm;  // of b
  const std::function<void(std::int64_t, double)>& made;
};

PetscErrorCode watch(KSP, PetscInt iteration, PetscReal residual, void* context) {
  const auto* watcher = static_cast<IterationWatcher*>(context);
  if (watcher->made) watcher->made(iteration, residual / watcher->norm);
  return 0;
}

void set_up(KSP iteration, const petsc::OperatorMatrix& shell, const IterationOptions& options) {
  check(KSPSetOperators(iteration, shell.get(), shell.get()), "KSPSetOperators");
  check(KSPSetType(iteration, options.solver == Solver::cg ? KSPCG : KSPMINRES), "KSPSetType");
  PC preconditioner = nullptr;
  check(KSPGetPC(iteration, &preconditioner), "KSPGetPC");
  check(PCSetType(preconditioner, PCNONE), "PCSetType");
  check(KSPSetTolerances(iteration, options.tolerance, 0, PETSC_DEFAULT, static_cast<PetscInt>(options.most)),
        "KSPSetTolerances");
  // What a user adds by PETSC_OPTIONS.
  check(KSPSetFromOptions(iteration), "KSPSetFromOptions");
}

std::string reason_of(KSPConvergedReason reason, const IterationOptions& options, double left) {
  const auto* name = options.solver == Solver::cg ? "CG" : "MINRES";
  if (reason == KSP_DIVERGED_INDEFINITE_MAT) {
    return "CG met a direction along which A + damping I is not positive: use --method minres, or more --damping";
  }
  if (reason == KSP_DIVERGED_ITS) {
    return text(name, " came to a residual of ", left, " in ", options.most,
                " iterations: allow more --iterations or a larger --tolerance, add --damping, or use --method dense");
  }
  return text(name, " broke down with a residual of ", left, " (PETSc's reason ", static_cast<int>(reason),
              "): add --damping, or use --method dense");
}

void set_numbers(Vec vector, const double* numbers, std::int64_t count) {
  PetscScalar* place = nullptr;
  check(VecGetArrayWrite(vector, &place), "VecGetArrayWrite");
  std::copy(numbers, numbers + count, place);
  check(VecRestoreArrayWrite(vector, &place), "VecRestoreArrayWrite");
}

void append_numbers(Vec vector, std::int64_t count, std::vector<double>& to) {
  const PetscScalar* numbers = nullptr;
  check(VecGetArrayRead(vector, &numbers), "VecGetArrayRead");
  to.insert(to.end(), numbers, numbers + count);
  check(VecRestoreArrayRead(vector, &numbers), "VecRestoreArrayRead");
}

// Vectors of which every rank has its own rows, whole on all.
std::vector<double> whole(const std::vector<double>& own, std::int64_t count, const SymmetricOperator& matrix) {
  return ranks::whole_vectors(own.data(), count, matrix.own(), matrix.size(), matrix.communicator());
}

}  // namespace

DenseSolution solve_dense(DistributedMatrix& matrix, double damping, const RightSides& right_sides,
                          const ranks::Communicator& communicator) {
  const int n = matrix.rows();
  shift(matrix, 1, damping);
  const double before = one_norm(matrix);
  const auto pivots = communicator.together([&] { return factorise(matrix); });
  DenseSolution found;
  found.reciprocal_condition =
      1 / (before * norm_of_inverse(n, [&](const auto& side) { return solved(matrix, pivots, side, communicator); }));
  communicator.together([&] { expect_regular(found.reciprocal_condition, n); });
  found.solutions = solved(matrix, pivots, right_sides, communicator);
  return found;
}

void expect_regular(double reciprocal_condition, int n, const char* other_ways) {
  // Below that, rounding alone decides what solves the system: the bound of numpy.linalg.matrix_rank.
  if (reciprocal_condition > n * std::numeric_limits<double>::epsilon()) return;
  throw RunError(text("A + damping I is singular to rounding (its condition number is about ", 1 / reciprocal_condition,
                      "), its solutions mean nothing: choose another --damping", other_ways ? ", or " : "",
                      other_ways ? other_ways : ""));
}

DecompositionCost cost_of_dense_solve(std::int64_t n, int ranks, const BlasSpeed& speed) {
  const double square = static_cast<double>(n) * static_cast<double>(n);
  const double operations = 2.0 / 3 * square * static_cast<double>(n);
  return {static_cast<std::uint64_t>(square * sizeof(double) / ranks) + 2 * bytes_of_reading, operations,
          operations / (speed.many_uses * ranks)};
}

IterativeSolution solve_iteratively(SymmetricOperator& matrix, double damping, const RightSides& right_sides,
                                    const IterationOptions& options,
                                    const std::function<void(std::int64_t, double)>& made) {
  const PetscSession session(matrix.communicator());
  const petsc::OperatorMatrix shell(matrix, damping);
  Iteration iteration;
  check(KSPCreate(matrix.communicator().handle(), iteration.place()), "KSPCreate");
  set_up(iteration.get(), shell, options);
  petsc::Vector side;
  petsc::Vector solution;
  shell.make_vector(side);
  shell.make_vector(solution);
  const auto n = matrix.size();
  const auto count = static_cast<std::int64_t>(right_sides.size()) / n;
  std::vector<double> own;
  IterativeSolution found;
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* b = right_sides.data() + k * n;
    IterationWatcher watcher{std::max(norm(b, n), std::numeric_limits<double>::min()), made};
    check(KSPMonitorCancel(iteration.get()), "KSPMonitorCancel");
    check(KSPMonitorSet(iteration.get(), watch, &watcher, nullptr), "KSPMonitorSet");
    set_numbers(side.get(), b + matrix.own().begin, matrix.own().count());
    const auto status = KSPSolve(iteration.get(), side.get(), solution.get());
    shell.rethrow();
    check(status, "KSPSolve");
    KSPConvergedReason reason = KSP_CONVERGED_ITERATING;
    PetscReal left = 0;
    PetscInt iterations = 0;
    check(KSPGetConvergedReason(iteration.get(), &reason), "KSPGetConvergedReason");
    check(KSPGetResidualNorm(iteration.get(), &left), "KSPGetResidualNorm");
    check(KSPGetIterationNumber(iteration.get(), &iterations), "KSPGetIterationNumber");
    if (reason < 0) {
      throw ranks::AgreedError(ExitCode::failed,
                               text("right side ", k, ": ", reason_of(reason, options, left / watcher.norm)));
    }
    found.iterations.push_back(iterations);
    append_numbers(solution.get(), matrix.own().count(), own);
  }
  found.solutions = whole(own, count, matrix);
  return found;
}

SolveErrors errors_of(SymmetricOperator& matrix, double damping, double norm_of_matrix, const RightSides& right_sides,
                      const std::vector<double>& solutions) {
  const auto n = matrix.size();
  const auto count = static_cast<std::int64_t>(right_sides.size()) / n;
  std::vector<double> own;
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* x = solutions.data() + k * n;
    own.insert(own.end(), x + matrix.own().begin, x + matrix.own().end);
  }
  std::vector<double> products(own.size());
  matrix.multiply(own.data(), count, products.data());
  SolveErrors errors;
  errors.products = whole(products, count, matrix);
  for (std::int64_t k = 0; k < count; ++k) {
    std::vector<double> left(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(k * n + i);
      left[static_cast<std::size_t>(i)] = right_sides[at] - errors.products[at] - damping * solutions[at];
    }
    const double of_side = norm(right_sides.data() + k * n, n);
    const double residual = norm(left.data(), n);
    const double scale = norm_of_matrix * norm(solutions.data() + k * n, n) + of_side;
    errors.residuals.push_back(of_side > 0 ? residual / of_side : residual);
    errors.backward_errors.push_back(scale > 0 ? residual / scale : residual);
  }
  return errors;
}

}  // namespace hessian_mpi::solvers
