#include "hessian_mpi/solvers/congruence.hpp"

#include <cmath>

#include "scalapack.hpp"

namespace hessian_mpi::solvers {
void weighted_sum(DistributedMatrix& vectors, const std::vector<double>& weights, DistributedMatrix& matrix) {
  each_number(vectors, [&](double& number, std::int64_t, std::int64_t column) {
    number *= std::sqrt(weights[static_cast<std::size_t>(column)]);
  });
  const int n = matrix.rows();
  pdsyrk_("L", "N", &n, &n, &one, vectors.data(), &first_index, &first_index, vectors.descriptor().data(), &zero,
          matrix.data(), &first_index, &first_index, matrix.descriptor().data());
  fill_upper_half(matrix);
}

void sandwich(const DistributedMatrix& outer, DistributedMatrix& middle) {
  const int n = outer.rows();
  DistributedMatrix half(outer.grid(), n, n, outer.block(), outer.block());
  pdsymm_("L", "L", &n, &n, &one, middle.data(), &first_index, &first_index, middle.descriptor().data(), outer.data(),
          &first_index, &first_index, outer.descriptor().data(), &zero, half.data(), &first_index, &first_index,
          half.descriptor().data());
  pdsymm_("L", "L", &n, &n, &one, outer.data(), &first_index, &first_index, outer.descriptor().data(), half.data(),
          &first_index, &first_index, half.descriptor().data(), &zero, middle.data(), &first_index, &first_index,
          middle.descriptor().data());
}

}  // namespace hessian_mpi::solvers
