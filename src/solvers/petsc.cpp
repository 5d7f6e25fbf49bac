#include "petsc.hpp"

namespace hessian_mpi::solvers::petsc {

OperatorMatrix::OperatorMatrix(SymmetricOperator& matrix, double shift) : operator_(matrix), shift_(shift) {
  const auto own = static_cast<PetscInt>(matrix.own().count());
  const auto all = static_cast<PetscInt>(matrix.size());
  check(MatCreateShell(matrix.communicator().handle(), own, own, all, all, this, matrix_.place()), "MatCreateShell");
  check(MatShellSetOperation(matrix_.get(), MATOP_MULT, reinterpret_cast<void (*)()>(multiply)),
        "MatShellSetOperation");
  check(MatSetOption(matrix_.get(), MAT_SYMMETRIC, PETSC_TRUE), "MatSetOption");
}

// C code calls this: errors go round it.
PetscErrorCode OperatorMatrix::multiply(Mat matrix, Vec from, Vec to) {
  OperatorMatrix* self = nullptr;
  const PetscScalar* numbers = nullptr;
  PetscScalar* products = nullptr;
  PetscCall(MatShellGetContext(matrix, &self));
  PetscCall(VecGetArrayRead(from, &numbers));
  PetscCall(VecGetArrayWrite(to, &products));
  try {
    self->operator_.multiply(numbers, 1, products);
    for (std::int64_t i = 0; i < self->operator_.own().count(); ++i) products[i] += self->shift_ * numbers[i];
  } catch (...) {
    self->error_ = std::current_exception();
  }
  PetscCall(VecRestoreArrayRead(from, &numbers));
  PetscCall(VecRestoreArrayWrite(to, &products));
  return self->error_ ? PETSC_ERR_USER : 0;
}

}  // namespace hessian_mpi::solvers::petsc
