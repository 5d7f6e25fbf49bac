#include "lean_derivatives/normalization_rows.hpp"

#include <algorithm>

#include "hessian_mpi/base/processors.hpp"

namespace hessian_mpi::network {
namespace {

// Numbers that are added up as they are; sums of so many are added up in float64.
constexpr std::int64_t piece = 512;

struct Means {
  double h = 0;
  double v = 0;
  double uh = 0;
  double uv = 0;
  double hv = 0;
};

template <class Number>
inline __attribute__((always_inline)) Means means_of(const Number* h, const Number* v, const Number* x, Number mean,
                                                     Number r, std::int64_t size) {
  Means sums;
  for (std::int64_t begin = 0; begin < size; begin += piece) {
    const std::int64_t end = std::min(begin + piece, size);
    Number of_h = 0;
    Number of_v = 0;
    Number of_uh = 0;
    Number of_uv = 0;
    Number of_hv = 0;
#pragma omp simd reduction(+ : of_h, of_v, of_uh, of_uv, of_hv)
    for (std::int64_t k = begin; k < end; ++k) {
      const Number u = (x[k] - mean) * r;
      of_h += h[k];
      of_v += v[k];
      of_uh += u * h[k];
      of_uv += u * v[k];
      of_hv += h[k] * v[k];
    }
    sums.h += of_h;
    sums.v += of_v;
    sums.uh += of_uh;
    sums.uv += of_uv;
    sums.hv += of_hv;
  }
  const auto count = static_cast<double>(size);
  return {sums.h / count, sums.v / count, sums.uh / count, sums.uv / count, sums.hv / count};
}

template <class Number>
inline __attribute__((always_inline)) void of_rows(const Number* h, const Number* v, const NormalizedRows<Number>& all,
                                                   Number* by_v, Number* by_x) {
  const Number* x = all.x;
  const auto size = all.size;
  for (std::int64_t row = 0; row < all.rows; ++row, h += size, v += size, x += size, by_v += size, by_x += size) {
    const Number mean = all.mean[row];
    const Number r = all.r[row];
    const Means of = means_of(h, v, x, mean, r, size);
    const auto h0 = static_cast<Number>(of.h);
    const auto v0 = static_cast<Number>(of.v);
    const auto uh = static_cast<Number>(of.uh);
    const auto uv = static_cast<Number>(of.uv);
    const auto dv = static_cast<Number>(of.hv - of.h * of.v - of.uh * of.uv);
    const Number scale = -r * r;
#pragma omp simd
    for (std::int64_t k = 0; k < size; ++k) {
      const Number u = (x[k] - mean) * r;
      const Number d = h[k] - h0 - u * uh;
      by_v[k] = r * d;
      by_x[k] = scale * (d * uv + (v[k] - v0 - u * uv) * uh + u * dv);
    }
  }
}

}  // namespace

HESSIAN_MPI_FOR_PROCESSORS void differentiate_normalization_gradient(const float* h, const float* v,
                                                                     const NormalizedRows<float>& of, float* by_v,
                                                                     float* by_x) {
  of_rows(h, v, of, by_v, by_x);
}

HESSIAN_MPI_FOR_PROCESSORS void differentiate_normalization_gradient(const double* h, const double* v,
                                                                     const NormalizedRows<double>& of, double* by_v,
                                                                     double* by_x) {
  of_rows(h, v, of, by_v, by_x);
}

}  // namespace hessian_mpi::network
