#pragma once
/// A derivative of normalised rows as one loop over their numbers. Internal to the lean derivatives.

#include <cstdint>

namespace hessian_mpi::network {

/// Of h times the gradient g = r (v - mean v - u mean u v) of u, which is r (x - mean), row by row; mean and r: one
/// number a row, r one over the deviation. By v that is d = r (h - mean h - u mean u h), and by x -r (d mean u v + g
/// mean u h + u mean d v).
void differentiate_normalization_gradient(const float* h, const float* v, const float* x, const float* mean,
                                          const float* r, std::int64_t rows, std::int64_t size, float* by_v,
                                          float* by_x);
void differentiate_normalization_gradient(const double* h, const double* v, const double* x, const double* mean,
                                          const double* r, std::int64_t rows, std::int64_t size, double* by_v,
                                          double* by_x);

}  // namespace hessian_mpi::network
