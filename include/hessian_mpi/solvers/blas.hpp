#pragma once
/// What the BLAS library in use can be told and asked, whichever it is.

#include <cstdint>

namespace hessian_mpi::solvers {

/// How many threads BLAS is to use from now on: OpenBLAS, MKL and BLIS heed it. Ranks that share a node would else
/// start as many each as it has cores. Not collective.
void use_blas_threads(int threads);

/// Operations a second of this process: where numbers are used many times (a product of matrices), and where each is
/// used once and comes from memory (a matrix times a vector). Takes less than a second. Not collective.
struct BlasSpeed {
  double many_uses = 0;
  double one_use = 0;
};
BlasSpeed measured_blas_speed();

}  // namespace hessian_mpi::solvers
