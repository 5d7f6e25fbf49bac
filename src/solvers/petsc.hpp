#pragma once
// PETSc for the modules that use it: a session, checked calls, and the matrix as PETSc sees it.

#include <petscmat.h>

#include <exception>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers::petsc {

/// Throws RunError where a call has failed, with PETSc's words for why.
inline void check(PetscErrorCode status, const char* call) {
  if (status == 0) return;
  const char* words = nullptr;
  PetscErrorMessage(status, &words, nullptr);
  throw RunError(text(call, " failed: ", words != nullptr ? words : "error ", words != nullptr ? "" : text(status)));
}

/// PETSc, or SLEPc on it, from construction to destruction. Collective.
template <PetscErrorCode (*initialise)(), PetscErrorCode (*finalise)()>
class Session {
 public:
  explicit Session(const ranks::Communicator& communicator) {
    PETSC_COMM_WORLD = communicator.handle();
    check(initialise(), "the start of PETSc");
    // This program has its own ways to stop and to tell errors.
    PetscPopSignalHandler();
    PetscPushErrorHandler(PetscReturnErrorHandler, nullptr);
  }
  ~Session() { finalise(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

/// An object of PETSc or SLEPc, destroyed with this. Collective where it is.
template <class Object, PetscErrorCode (*destroy)(Object*)>
class Owned {
 public:
  Owned() = default;
  ~Owned() { destroy(&object_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Object get() const { return object_; }
  Object* place() { return &object_; }

 private:
  Object object_ = nullptr;
};
using Matrix = Owned<Mat, MatDestroy>;
using Vector = Owned<Vec, VecDestroy>;

/// A matrix that multiplies by calling a SymmetricOperator, plus a multiple of the identity.
class OperatorMatrix {
 public:
  /// Collective. The operator must outlive the object.
  OperatorMatrix(SymmetricOperator& matrix, double shift);
  Mat get() const { return matrix_.get(); }
  /// Collective. Throws what a product threw meanwhile, on all ranks; PETSc itself knows only that one failed.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }
  /// Collective. A vector that fits.
  void make_vector(Vector& vector) const {
    check(MatCreateVecs(matrix_.get(), vector.place(), nullptr), "MatCreateVecs");
  }

 private:
  static PetscErrorCode multiply(Mat matrix, Vec from, Vec to);
  SymmetricOperator& operator_;
  double shift_;
  std::exception_ptr error_;
  Matrix matrix_;
};

}  // namespace hessian_mpi::solvers::petsc
