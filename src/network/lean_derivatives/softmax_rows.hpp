#pragma once
/// A derivative of softmax as one loop over its numbers. Internal to the lean derivatives.

#include <cstdint>

namespace hessian_mpi::network {

/// Of h times a softmax' gradient y (g - sum y g), row by row: by g, y (h - sum y h), and by y,
/// h (g - sum y g) - g sum y h.
void differentiate_softmax_gradient(const float* h, const float* g, const float* y, std::int64_t rows,
                                    std::int64_t size, float* by_g, float* by_y);
void differentiate_softmax_gradient(const double* h, const double* g, const double* y, std::int64_t rows,
                                    std::int64_t size, double* by_g, double* by_y);

}  // namespace hessian_mpi::network
