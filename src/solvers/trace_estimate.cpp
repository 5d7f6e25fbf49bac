#include "hessian_mpi/solvers/trace_estimate.hpp"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "hessian_mpi/after/vectors_file.hpp"

namespace hessian_mpi::solvers {
namespace {

// This rank's numbers of vectors, one after the other.
class Vectors {
 public:
  Vectors(const SymmetricOperator& matrix, std::vector<double> numbers, std::int64_t count)
      : communicator_(matrix.communicator()),
        rows_(matrix.own().count()),
        count_(count),
        numbers_(std::move(numbers)) {}

  std::int64_t count() const { return count_; }
  const double* operator[](std::int64_t k) const { return numbers_.data() + k * rows_; }
  double* operator[](std::int64_t k) { return numbers_.data() + k * rows_; }

  Vectors times(SymmetricOperator& matrix) const {
    auto products = *this;
    if (count_ > 0) matrix.multiply(numbers_.data(), count_, products.numbers_.data());
    return products;
  }

  // Collective. Of each vector with that of the same number.
  std::vector<double> dot(const Vectors& other) const {
    std::vector<double> sums;
    for (std::int64_t k = 0; k < count_; ++k) sums.push_back(dot((*this)[k], other[k]));
    return communicator_.sum(std::move(sums));
  }

  // Collective. Takes from x what lies along the first vectors, which are orthonormal.
  void project_out(std::int64_t first, double* x) const {
    constexpr int times = 2;  // what rounding has left of the first time
    for (int time = 0; time < times; ++time) {
      std::vector<double> along;
      for (std::int64_t k = 0; k < first; ++k) along.push_back(dot((*this)[k], x));
      along = communicator_.sum(std::move(along));
      for (std::int64_t k = 0; k < first; ++k) {
        for (std::int64_t i = 0; i < rows_; ++i) x[i] -= along[static_cast<std::size_t>(k)] * (*this)[k][i];
      }
    }
  }

  // Collective. Leaves out those that lie in the space of the others.
  void make_orthonormal() {
    constexpr double rounding = 1e-10;
    std::int64_t kept = 0;
    for (std::int64_t k = 0; k < count_; ++k) {
      double* x = (*this)[kept];
      std::copy((*this)[k], (*this)[k] + rows_, x);
      const double before = length(x);
      project_out(kept, x);
      const double after = length(x);
      if (!(after > rounding * before)) continue;
      for (std::int64_t i = 0; i < rows_; ++i) x[i] /= after;
      ++kept;
    }
    count_ = kept;
    numbers_.resize(static_cast<std::size_t>(kept * rows_));
  }

 private:
  double dot(const double* x, const double* y) const { return std::inner_product(x, x + rows_, y, 0.0); }
  double length(const double* x) const { return std::sqrt(communicator_.sum(std::vector<double>{dot(x, x)})[0]); }

  const ranks::Communicator& communicator_;
  std::int64_t rows_;
  std::int64_t count_;
  std::vector<double> numbers_;
};

// The standard error of a mean, from so few samples that their scatter is uncertain too: two of it are as likely to
// hold the mean as two of a normal distribution.
double error_of_mean(const std::vector<double>& samples, double mean) {
  constexpr double two_sigma = 0.97725;
  const auto count = static_cast<double>(samples.size());
  double squares = 0;
  for (const double x : samples) squares += (x - mean) * (x - mean);
  const double wider = boost::math::quantile(boost::math::students_t(count - 1), two_sigma) / 2;
  return wider * std::sqrt(squares / (count - 1) / count);
}

}  // namespace

TraceEstimate estimated_trace(SymmetricOperator& matrix, std::int64_t probes, std::uint64_t seed) {
  const auto random = [&](std::uint64_t other) {
    return Vectors(matrix, after::random_signs(probes, matrix.own(), seed + other), probes);
  };
  // Other vectors than those that the density begins with.
  auto basis = random(1).times(matrix);
  basis.make_orthonormal();
  const auto inside = basis.dot(basis.times(matrix));
  auto rest = random(2);
  for (std::int64_t k = 0; k < probes; ++k) basis.project_out(basis.count(), rest[k]);
  const auto outside = rest.dot(rest.times(matrix));
  const double mean = std::accumulate(outside.begin(), outside.end(), 0.0) / static_cast<double>(probes);
  return {std::accumulate(inside.begin(), inside.end(), mean), error_of_mean(outside, mean)};
}

}  // namespace hessian_mpi::solvers
