#include "hessian_mpi/solvers/congruence.hpp"

#include <cmath>

#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr int first = 1;  // Fortran counts from 1
constexpr double one = 1;
constexpr double zero = 0;

}  // namespace

void weighted_sum(DistributedMatrix& vectors, const std::vector<double>& weights, DistributedMatrix& matrix) {
  each_number(vectors, [&](double& number, std::int64_t, std::int64_t column) {
    number *= std::sqrt(weights[static_cast<std::size_t>(column)]);
  });
  const int n = matrix.rows();
  pdsyrk_("L", "N", &n, &n, &one, vectors.data(), &first, &first, vectors.descriptor().data(), &zero, matrix.data(),
          &first, &first, matrix.descriptor().data());
  fill_upper_half(matrix);
}

void sandwich(const DistributedMatrix& outer, DistributedMatrix& middle) {
  const int n = outer.rows();
  DistributedMatrix half(outer.grid(), n, n, outer.block(), outer.block());
  pdsymm_("L", "L", &n, &n, &one, middle.data(), &first, &first, middle.descriptor().data(), outer.data(), &first,
          &first, outer.descriptor().data(), &zero, half.data(), &first, &first, half.descriptor().data());
  pdsymm_("L", "L", &n, &n, &one, outer.data(), &first, &first, outer.descriptor().data(), half.data(), &first, &first,
          half.descriptor().data(), &zero, middle.data(), &first, &first, middle.descriptor().data());
}

}  // namespace hessian_mpi::solvers
