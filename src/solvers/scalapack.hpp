#pragma once
// ScaLAPACK, BLACS and LAPACK come without headers: what this project calls, as Fortran and C declare it.

#include <mpi.h>

extern "C" {
// NOLINTBEGIN(readability-identifier-naming): the names are those of the libraries

int Csys2blacs_handle(MPI_Comm communicator);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridinit(int* context, const char* order, int rows, int columns);
void Cblacs_gridinfo(int context, int* rows, int* columns, int* row, int* column);
void Cblacs_gridexit(int context);

int numroc_(const int* n, const int* block, const int* process, const int* source, const int* processes);
void descinit_(int* descriptor, const int* m, const int* n, const int* mb, const int* nb, const int* source_row,
               const int* source_column, const int* context, const int* leading, int* info);
void pdgemr2d_(const int* m, const int* n, const double* a, const int* ia, const int* ja, const int* of_a, double* b,
               const int* ib, const int* jb, const int* of_b, const int* context);
void pdtran_(const int* m, const int* n, const double* alpha, const double* a, const int* ia, const int* ja,
             const int* of_a, const double* beta, double* c, const int* ic, const int* jc, const int* of_c);
void pdgemm_(const char* trans_a, const char* trans_b, const int* m, const int* n, const int* k, const double* alpha,
             const double* a, const int* ia, const int* ja, const int* of_a, const double* b, const int* ib,
             const int* jb, const int* of_b, const double* beta, double* c, const int* ic, const int* jc,
             const int* of_c);
void pdsymm_(const char* side, const char* half, const int* m, const int* n, const double* alpha, const double* a,
             const int* ia, const int* ja, const int* of_a, const double* b, const int* ib, const int* jb,
             const int* of_b, const double* beta, double* c, const int* ic, const int* jc, const int* of_c);
void pdsytrd_(const char* half, const int* n, double* a, const int* ia, const int* ja, const int* of_a, double* d,
              double* e, double* tau, double* work, const int* lwork, int* info);
void pdsyevd_(const char* job, const char* half, const int* n, double* a, const int* ia, const int* ja, const int* of_a,
              double* w, double* z, const int* iz, const int* jz, const int* of_z, double* work, const int* lwork,
              int* iwork, const int* liwork, int* info);
void pdormtr_(const char* side, const char* half, const char* trans, const int* m, const int* n, const double* a,
              const int* ia, const int* ja, const int* of_a, const double* tau, double* c, const int* ic, const int* jc,
              const int* of_c, double* work, const int* lwork, int* info);
void pdgetrf_(const int* m, const int* n, double* a, const int* ia, const int* ja, const int* of_a, int* pivots,
              int* info);
void pdgetrs_(const char* trans, const int* n, const int* right_sides, const double* a, const int* ia, const int* ja,
              const int* of_a, const int* pivots, double* b, const int* ib, const int* jb, const int* of_b, int* info);
void pdpotrf_(const char* half, const int* n, double* a, const int* ia, const int* ja, const int* of_a, int* info);
void pdpotrs_(const char* half, const int* n, const int* right_sides, const double* a, const int* ia, const int* ja,
              const int* of_a, double* b, const int* ib, const int* jb, const int* of_b, int* info);
void pdpotri_(const char* half, const int* n, double* a, const int* ia, const int* ja, const int* of_a, int* info);
void pdsyrk_(const char* half, const char* trans, const int* n, const int* k, const double* alpha, const double* a,
             const int* ia, const int* ja, const int* of_a, const double* beta, double* c, const int* ic, const int* jc,
             const int* of_c);
double pdlange_(const char* norm, const int* m, const int* n, const double* a, const int* ia, const int* ja,
                const int* of_a, double* work);

void dsterf_(const int* n, double* d, double* e, int* info);
void dsyev_(const char* job, const char* half, const int* n, double* a, const int* lda, double* w, double* work,
            const int* lwork, int* info);
void dstev_(const char* job, const int* n, double* d, double* e, double* z, const int* ldz, double* work, int* info);
void dgemm_(const char* trans_a, const char* trans_b, const int* m, const int* n, const int* k, const double* alpha,
            const double* a, const int* lda, const double* b, const int* ldb, const double* beta, double* c,
            const int* ldc);
void dgemv_(const char* trans, const int* m, const int* n, const double* alpha, const double* a, const int* lda,
            const double* x, const int* incx, const double* beta, double* y, const int* incy);
// NOLINTEND(readability-identifier-naming)
}

namespace hessian_mpi::solvers {

// Their numbers are passed by their addresses.
constexpr int first_index = 1;  // Fortran counts from 1
constexpr double zero = 0;
constexpr double one = 1;
constexpr double minus_one = -1;

}  // namespace hessian_mpi::solvers
