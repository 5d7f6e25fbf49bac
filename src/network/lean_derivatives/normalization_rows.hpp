#pragma once
/// A derivative of normalised rows as one loop over their numbers. Internal to the lean derivatives.

#include <cstdint>

namespace hessian_mpi::network {

/// Rows x [rows, size], and of each its mean and r, one over its deviation: u = r (x - mean).
template <class Number>
struct NormalizedRows {
  const Number* x = nullptr;
  const Number* mean = nullptr;
  const Number* r = nullptr;
  std::int64_t rows = 0;
  std::int64_t size = 0;
};

/// Of h times the gradient g = r (v - mean v - u mean u v) of u, row by row. By v that is d = r (h - mean h - u mean u
/// h), and by x -r (d mean u v + g mean u h + u mean d v).
void differentiate_normalization_gradient(const float* h, const float* v, const NormalizedRows<float>& of, float* by_v,
                                          float* by_x);
void differentiate_normalization_gradient(const double* h, const double* v, const NormalizedRows<double>& of,
                                          double* by_v, double* by_x);

}  // namespace hessian_mpi::network
