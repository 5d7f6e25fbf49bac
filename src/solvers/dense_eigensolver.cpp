#include "hessian_mpi/solvers/dense_eigensolver.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hessian_mpi/base/error.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

// ScaLAPACK says what it needs when it is asked with -1.
constexpr int ask = -1;

int length(double answer) {
  constexpr double most = 2147483647;
  if (!(answer < most)) throw InputError("ScaLAPACK cannot count the memory that it needs: use more ranks");
  return static_cast<int>(answer);
}

void expect_decomposed(int info, const char* routine) {
  if (info == 0) return;
  throw RunError(text("ScaLAPACK's ", routine, " failed with info = ", info,
                      info > 0 ? ": it did not converge, though the matrix is finite" : ""));
}

// What is not a number is as wrong as can be.
void keep_worst(double& worst, double error) {
  worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
}

// The diagonals of the tridiagonal matrix that the matrix is reduced to, of which each rank knows a part; on all ranks.
struct Tridiagonal {
  std::vector<double> diagonal;
  std::vector<double> beside;  // as long; the last number means nothing
};

Tridiagonal reduce_to_tridiagonal(DistributedMatrix& matrix, const ranks::Communicator& communicator) {
  const int n = matrix.rows();
  const auto own = static_cast<std::size_t>(std::max<std::int64_t>(1, matrix.own_columns()));
  std::vector<double> d(own);
  std::vector<double> e(own);
  std::vector<double> tau(own);
  std::vector<double> work(1);
  int info = 0;
  const auto call = [&](int lwork) {
    pdsytrd_("L", &n, matrix.data(), &first_index, &first_index, matrix.descriptor().data(), d.data(), e.data(),
             tau.data(), work.data(), &lwork, &info);
    expect_decomposed(info, "pdsytrd");
  };
  communicator.together([&] {
    call(ask);
    work.resize(static_cast<std::size_t>(length(work[0])));
  });
  communicator.together([&] { call(static_cast<int>(work.size())); });
  Tridiagonal all{std::vector<double>(static_cast<std::size_t>(n)), std::vector<double>(static_cast<std::size_t>(n))};
  // Every rank of a column of the grid knows the same.
  for (std::int64_t j = 0; matrix.grid().row() == 0 && j < matrix.own_columns(); ++j) {
    const auto column = static_cast<std::size_t>(matrix.column_of(j));
    all.diagonal[column] = d[static_cast<std::size_t>(j)];
    if (column + 1 < all.beside.size()) all.beside[column] = e[static_cast<std::size_t>(j)];
  }
  return {communicator.sum(std::move(all.diagonal)), communicator.sum(std::move(all.beside))};
}

// What the last step of pdsyevd needs, which ScaLAPACK 2.2 leaves out of what it says that pdsyevd needs: the step is
// then skipped, for small matrices, and the vectors are wrong.
double work_of_going_back(const DistributedMatrix& matrix, DistributedMatrix& vectors) {
  const int n = matrix.rows();
  double answer = 0;
  double tau = 0;
  int info = 0;
  pdormtr_("L", "L", "N", &n, &n, matrix.data(), &first_index, &first_index, matrix.descriptor().data(), &tau,
           vectors.data(), &first_index, &first_index, vectors.descriptor().data(), &answer, &ask, &info);
  expect_decomposed(info, "pdormtr");
  return answer;
}

// The largest norm of this grid's columns of a matrix.
double largest_column_norm(const DistributedMatrix& matrix, const ranks::Communicator& communicator) {
  std::vector<double> squares(static_cast<std::size_t>(matrix.columns()));
  for (std::int64_t j = 0; j < matrix.own_columns(); ++j) {
    for (std::int64_t i = 0; i < matrix.own_rows(); ++i) {
      const double number = matrix.data()[j * matrix.own_rows() + i];
      squares[static_cast<std::size_t>(matrix.column_of(j))] += number * number;
    }
  }
  squares = communicator.sum(std::move(squares));
  double largest = 0;
  for (const double square : squares) keep_worst(largest, std::sqrt(square));
  return largest;
}

// Columns [begin, begin + panel's) of V^T V - I.
double orthogonality_error(const DistributedMatrix& vectors, std::int64_t begin, DistributedMatrix& panel) {
  const int n = vectors.rows();
  const int width = panel.columns();
  const int at = static_cast<int>(begin) + 1;
  pdgemm_("T", "N", &n, &width, &n, &one, vectors.data(), &first_index, &first_index, vectors.descriptor().data(),
          vectors.data(), &first_index, &at, vectors.descriptor().data(), &zero, panel.data(), &first_index,
          &first_index, panel.descriptor().data());
  double worst = 0;
  for (std::int64_t j = 0; j < panel.own_columns(); ++j) {
    for (std::int64_t i = 0; i < panel.own_rows(); ++i) {
      const double wanted = panel.row_of(i) == begin + panel.column_of(j) ? 1 : 0;
      const double error = std::abs(panel.data()[j * panel.own_rows() + i] - wanted);
      keep_worst(worst, error);
    }
  }
  return worst;
}

// Columns [begin, begin + panel's) of A V - V diag(values): their largest norm.
double residual_norm(const DistributedMatrix& matrix, const std::vector<double>& values,
                     const DistributedMatrix& vectors, std::int64_t begin, DistributedMatrix& panel,
                     const ranks::Communicator& communicator) {
  const int n = matrix.rows();
  const int width = panel.columns();
  const int at = static_cast<int>(begin) + 1;
  pdgemr2d_(&n, &width, vectors.data(), &first_index, &at, vectors.descriptor().data(), panel.data(), &first_index,
            &first_index, panel.descriptor().data(), &panel.descriptor()[1]);
  for (std::int64_t j = 0; j < panel.own_columns(); ++j) {
    const double value = values[static_cast<std::size_t>(begin + panel.column_of(j))];
    auto* column = panel.data() + j * panel.own_rows();
    std::transform(column, column + panel.own_rows(), column, [&](double x) { return -value * x; });
  }
  pdsymm_("L", "L", &n, &width, &one, matrix.data(), &first_index, &first_index, matrix.descriptor().data(),
          vectors.data(), &first_index, &at, vectors.descriptor().data(), &one, panel.data(), &first_index,
          &first_index, panel.descriptor().data());
  return largest_column_norm(panel, communicator);
}

std::vector<double> symmetric_part(const std::vector<double>& matrix, std::int64_t n) {
  auto symmetric = matrix;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      symmetric[static_cast<std::size_t>(i * n + j)] =
          0.5 * (matrix[static_cast<std::size_t>(i * n + j)] + matrix[static_cast<std::size_t>(j * n + i)]);
    }
  }
  return symmetric;
}

}  // namespace

std::vector<double> eigenvalues_of(DistributedMatrix& matrix, const ranks::Communicator& communicator) {
  auto [diagonal, beside] = reduce_to_tridiagonal(matrix, communicator);
  const int n = matrix.rows();
  int info = 0;
  // Of order N^2: each rank does it for itself, with the same numbers.
  communicator.together([&, &d = diagonal, &e = beside] {
    dsterf_(&n, d.data(), e.data(), &info);
    expect_decomposed(info, "dsterf");
  });
  return diagonal;
}

std::vector<double> eigenvalues_and_vectors_of(DistributedMatrix& matrix, DistributedMatrix& vectors,
                                               const ranks::Communicator& communicator) {
  const int n = matrix.rows();
  std::vector<double> values(static_cast<std::size_t>(n));
  std::vector<double> work(1);
  std::vector<int> iwork(1);
  int info = 0;
  const auto call = [&](int lwork, int liwork) {
    pdsyevd_("V", "L", &n, matrix.data(), &first_index, &first_index, matrix.descriptor().data(), values.data(),
             vectors.data(), &first_index, &first_index, vectors.descriptor().data(), work.data(), &lwork, iwork.data(),
             &liwork, &info);
    expect_decomposed(info, "pdsyevd");
  };
  communicator.together([&] {
    call(ask, ask);
    const double stated = work[0];
    work.resize(static_cast<std::size_t>(length(stated + work_of_going_back(matrix, vectors))));
    iwork.resize(static_cast<std::size_t>(std::max(1, iwork[0])));
  });
  communicator.together([&] { call(static_cast<int>(work.size()), static_cast<int>(iwork.size())); });
  return values;
}

SmallDecomposition decompose_small(const std::vector<double>& matrix, std::int64_t n) {
  SmallDecomposition found{{}, std::vector<double>(static_cast<std::size_t>(n)), symmetric_part(matrix, n)};
  auto& a = found.vectors;
  for (std::int64_t i = 0; i < n; ++i) found.sums.trace += a[static_cast<std::size_t>(i * n + i)];
  found.sums.squares = std::inner_product(a.begin(), a.end(), a.begin(), 0.0);
  for (const double number : a) found.sums.largest = std::max(found.sums.largest, std::abs(number));
  if (!std::isfinite(found.sums.squares)) {
    throw RunError("a block has NaN or infinity, or numbers whose squares overflow: it cannot be decomposed");
  }
  const int rows = static_cast<int>(n);
  double answer = 0;
  int info = 0;
  dsyev_("V", "L", &rows, a.data(), &rows, found.values.data(), &answer, &ask, &info);
  std::vector<double> work(static_cast<std::size_t>(length(answer)));
  const int lwork = static_cast<int>(work.size());
  dsyev_("V", "L", &rows, a.data(), &rows, found.values.data(), work.data(), &lwork, &info);
  expect_decomposed(info, "dsyev");
  return found;
}

VectorErrors errors_of(const std::vector<double>& matrix, const SmallDecomposition& found) {
  const auto n = static_cast<std::int64_t>(found.values.size());
  const auto symmetric = symmetric_part(matrix, n);
  const auto row = [n](const std::vector<double>& of, std::int64_t k) { return of.begin() + k * n; };
  VectorErrors errors;
  for (std::int64_t k = 0; k < n; ++k) {
    const auto vector = row(found.vectors, k);
    double square = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double product = std::inner_product(vector, vector + n, row(symmetric, i), 0.0);
      square += std::pow(product - found.values[static_cast<std::size_t>(k)] * vector[i], 2);
      const double along = std::inner_product(vector, vector + n, row(found.vectors, i), 0.0);
      keep_worst(errors.orthogonality, std::abs(along - (i == k ? 1 : 0)));
    }
    keep_worst(errors.residual, std::sqrt(square));
  }
  const double largest = std::max(std::abs(found.values.front()), std::abs(found.values.back()));
  if (largest > 0) errors.residual /= largest;
  return errors;
}

SpectrumErrors errors_of(const std::vector<double>& values, const SymmetricSums& sums) {
  SpectrumErrors of_sums{
      std::abs(std::accumulate(values.begin(), values.end(), 0.0) - sums.trace),
      std::abs(std::inner_product(values.begin(), values.end(), values.begin(), 0.0) - sums.squares)};
  const double magnitude =
      std::accumulate(values.begin(), values.end(), 0.0, [](double sum, double x) { return sum + std::abs(x); });
  if (magnitude > 0) of_sums.trace /= magnitude;
  if (sums.squares > 0) of_sums.frobenius /= sums.squares;
  return of_sums;
}

VectorErrors errors_of(const DistributedMatrix& matrix, const std::vector<double>& values,
                       const DistributedMatrix& vectors, const ranks::Communicator& communicator) {
  VectorErrors errors;
  const double largest = std::max(std::abs(values.front()), std::abs(values.back()));
  // One block for every column of the grid: no rank idles.
  const std::int64_t at_once = std::int64_t{matrix.block()} * matrix.grid().columns();
  for (std::int64_t begin = 0; begin < matrix.rows(); begin += at_once) {
    const auto width = std::min(at_once, matrix.rows() - begin);
    DistributedMatrix panel(matrix.grid(), matrix.rows(), width, matrix.block(), matrix.block());
    keep_worst(errors.residual, residual_norm(matrix, values, vectors, begin, panel, communicator));
    keep_worst(errors.orthogonality, orthogonality_error(vectors, begin, panel));
  }
  errors.orthogonality = communicator.max(errors.orthogonality);
  if (largest > 0) errors.residual /= largest;
  return errors;
}

DecompositionCost cost_of_decomposition(std::int64_t n, bool with_vectors, int ranks, const BlasSpeed& speed) {
  const double cube = std::pow(static_cast<double>(n), 3);
  const double square = static_cast<double>(n) * static_cast<double>(n);
  // Half of the reduction is products of the matrix with a vector, for each of its columns; the rest is products of
  // matrices: of divide and conquer at most 4/3 N^3, of going back 2 N^3, of the check 4 N^3.
  const double one_use = 2.0 / 3 * cube;
  const double many_uses = (2.0 / 3 + (with_vectors ? 4.0 / 3 + 2 + 4 : 0)) * cube;
  const double matrices = with_vectors ? 4 : 1;
  return {static_cast<std::uint64_t>(matrices * square * sizeof(double) / ranks) + 2 * bytes_of_reading,
          one_use + many_uses, one_use / (speed.one_use * ranks) + many_uses / (speed.many_uses * ranks)};
}

}  // namespace hessian_mpi::solvers
