#include "lean_derivatives/softmax_rows.hpp"

#include "hessian_mpi/base/processors.hpp"

namespace hessian_mpi::network {
namespace {

template <class Number>
inline __attribute__((always_inline)) void of_rows(const Number* h, const Number* g, const Number* y, std::int64_t rows,
                                                   std::int64_t size, Number* by_g, Number* by_y) {
  for (std::int64_t r = 0; r < rows; ++r, h += size, g += size, y += size, by_g += size, by_y += size) {
    Number of_h = 0;
    Number of_g = 0;
#pragma omp simd reduction(+ : of_h, of_g)
    for (std::int64_t k = 0; k < size; ++k) {
      of_h += y[k] * h[k];
      of_g += y[k] * g[k];
    }
#pragma omp simd
    for (std::int64_t k = 0; k < size; ++k) {
      by_g[k] = y[k] * (h[k] - of_h);
      by_y[k] = h[k] * (g[k] - of_g) - g[k] * of_h;
    }
  }
}

}  // namespace

HESSIAN_MPI_FOR_PROCESSORS void differentiate_softmax_gradient(const float* h, const float* g, const float* y,
                                                               std::int64_t rows, std::int64_t size, float* by_g,
                                                               float* by_y) {
  of_rows(h, g, y, rows, size, by_g, by_y);
}

HESSIAN_MPI_FOR_PROCESSORS void differentiate_softmax_gradient(const double* h, const double* g, const double* y,
                                                               std::int64_t rows, std::int64_t size, double* by_g,
                                                               double* by_y) {
  of_rows(h, g, y, rows, size, by_g, by_y);
}

}  // namespace hessian_mpi::network
