#include "hessian_mpi/solvers/residuals.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace hessian_mpi::solvers {

std::vector<double> residuals(SymmetricOperator& matrix, const std::vector<double>& values,
                              const std::vector<double>& vectors, std::int64_t at_once) {
  const auto rows = matrix.own().count();
  std::vector<double> squares(values.size());
  for (std::size_t first = 0; first < values.size(); first += static_cast<std::size_t>(at_once)) {
    const auto count = std::min(at_once, static_cast<std::int64_t>(values.size() - first));
    const double* from = vectors.data() + static_cast<std::int64_t>(first) * rows;
    std::vector<double> product(static_cast<std::size_t>(count * rows));
    matrix.multiply(from, count, product.data());
    for (std::int64_t k = 0; k < count * rows; ++k) {
      const auto v = first + static_cast<std::size_t>(k / rows);
      squares[v] += std::pow(product[static_cast<std::size_t>(k)] - values[v] * from[k], 2);
    }
  }
  auto lengths = matrix.communicator().sum(std::move(squares));
  for (double& length : lengths) length = std::sqrt(length);
  return lengths;
}

}  // namespace hessian_mpi::solvers
