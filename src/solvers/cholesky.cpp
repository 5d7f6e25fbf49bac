#include "hessian_mpi/solvers/cholesky.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

void expect_success(int info, const char* routine) {
  if (info != 0) throw RunError(text("ScaLAPACK's ", routine, " failed with info = ", info));
}

// Of a symmetric matrix whose lower half counts.
double one_norm(const DistributedMatrix& matrix, const ranks::Communicator& communicator) {
  std::vector<double> sums(static_cast<std::size_t>(matrix.columns()));
  each_number(matrix, [&](double number, std::int64_t row, std::int64_t column) {
    if (row < column) return;
    sums[static_cast<std::size_t>(column)] += std::abs(number);
    if (row != column) sums[static_cast<std::size_t>(row)] += std::abs(number);
  });
  sums = communicator.sum(std::move(sums));
  return *std::max_element(sums.begin(), sums.end());
}

}  // namespace

void shift(DistributedMatrix& matrix, double scale, double damping) {
  each_number(matrix, [&](double& number, std::int64_t row, std::int64_t column) {
    number = scale * number + (row == column ? damping : 0);
  });
}

double norm_of_inverse(std::int64_t n, const std::function<std::vector<double>(const std::vector<double>&)>& solve) {
  constexpr int steps = 6;  // of inverse iteration: more than enough for the order of magnitude
  auto vector = after::random_signs(1, {0, n}, 0);
  double norm = std::sqrt(static_cast<double>(n));
  for (int step = 0; step < steps; ++step) {
    for (auto& number : vector) number /= norm;
    vector = solve(vector);
    norm = std::sqrt(std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0));
    if (!std::isfinite(norm)) return std::numeric_limits<double>::infinity();
  }
  return norm;
}

CholeskyFactor::CholeskyFactor(DistributedMatrix& matrix, const ranks::Communicator& communicator)
    : matrix_(matrix), communicator_(communicator), norm_(one_norm(matrix, communicator)) {
  const int n = matrix.rows();
  int info = 0;
  pdpotrf_("L", &n, matrix.data(), &first_index, &first_index, matrix.descriptor().data(), &info);
  communicator.together([&] { expect_success(std::min(info, 0), "pdpotrf"); });
  is_there_ = communicator.max(std::int64_t{info}) == 0;
}

double CholeskyFactor::reciprocal_condition() const {
  return 1 / (norm_ * norm_of_inverse(matrix_.rows(), [&](const auto& side) { return solve(side); }));
}

double CholeskyFactor::log_determinant() const {
  std::vector<double> logarithms(1);
  each_number(matrix_, [&](double number, std::int64_t row, std::int64_t column) {
    if (row == column) logarithms[0] += 2 * std::log(number);
  });
  return communicator_.sum(std::move(logarithms))[0];
}

std::vector<double> CholeskyFactor::solve(const std::vector<double>& right_sides) const {
  auto sides = spread(right_sides, matrix_);
  const int n = matrix_.rows();
  const int count = sides.columns();
  int info = 0;
  pdpotrs_("L", &n, &count, matrix_.data(), &first_index, &first_index, matrix_.descriptor().data(), sides.data(),
           &first_index, &first_index, sides.descriptor().data(), &info);
  communicator_.together([&] { expect_success(info, "pdpotrs"); });
  return gathered(sides, communicator_);
}

void CholeskyFactor::invert() {
  const int n = matrix_.rows();
  int info = 0;
  pdpotri_("L", &n, matrix_.data(), &first_index, &first_index, matrix_.descriptor().data(), &info);
  communicator_.together([&] { expect_success(info, "pdpotri"); });
  is_there_ = false;
  fill_upper_half(matrix_);
}

DecompositionCost cost_of_cholesky(std::int64_t n, bool with_inverse, int ranks, const BlasSpeed& speed) {
  const double square = static_cast<double>(n) * static_cast<double>(n);
  const double operations = (with_inverse ? 1 : 1.0 / 3) * square * static_cast<double>(n);
  return {static_cast<std::uint64_t>(square * sizeof(double) / ranks) + 2 * bytes_of_reading, operations,
          operations / (speed.many_uses * ranks)};
}

}  // namespace hessian_mpi::solvers
