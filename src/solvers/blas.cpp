#include "hessian_mpi/solvers/blas.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <vector>

#include "hessian_mpi/base/stopwatch.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

// Seconds of the fastest of some runs.
template <class Run>
double fastest(const Run& run) {
  constexpr int runs = 4;
  double least = 1e30;
  for (int k = 0; k < runs; ++k) {
    const Stopwatch watch;
    run();
    least = std::min(least, watch.seconds());
  }
  return least;
}

}  // namespace

void use_blas_threads(int threads) {
  using Setter = void (*)(int);
  for (const auto* name : {"openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads"}) {
    if (auto* const setter = reinterpret_cast<Setter>(dlsym(RTLD_DEFAULT, name))) setter(threads);
  }
}

BlasSpeed measured_blas_speed() {
  constexpr int inner = 64;  // the width of blocks
  constexpr int side = 1024;
  constexpr int rows = 2048;  // of 32 MiB: more than caches hold
  constexpr int step = 1;
  std::vector<double> a(static_cast<std::size_t>(rows) * rows, 1.0 / rows);
  std::vector<double> x(static_cast<std::size_t>(side) * inner, 1.0);
  std::vector<double> y(static_cast<std::size_t>(side) * inner, 1.0);
  std::vector<double> c(static_cast<std::size_t>(side) * side);
  const double of_gemm = fastest(
      [&] { dgemm_("N", "T", &side, &side, &inner, &one, x.data(), &side, y.data(), &side, &zero, c.data(), &side); });
  const double of_gemv =
      fastest([&] { dgemv_("N", &rows, &rows, &one, a.data(), &rows, x.data(), &step, &zero, y.data(), &step); });
  return {2.0 * side * side * inner / of_gemm, 2.0 * rows * rows / of_gemv};
}

}  // namespace hessian_mpi::solvers
