#include "hessian_mpi/solvers/low_rank.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/residuals.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

// Directions of a block that are shorter than that, in parts of the longest, are rounding: lengths come from squares.
constexpr double shortest = 1e-7;

// Eigenvalues of a symmetric matrix, ascending; the eigenvectors take its place, column by column.
std::vector<double> eigenvectors_in_place(std::vector<double>& matrix, int n) {
  std::vector<double> values(static_cast<std::size_t>(n));
  int info = 0;
  double answer = 0;
  int lwork = -1;
  dsyev_("V", "L", &n, matrix.data(), &n, values.data(), &answer, &lwork, &info);
  lwork = static_cast<int>(answer);
  std::vector<double> work(static_cast<std::size_t>(lwork));
  dsyev_("V", "L", &n, matrix.data(), &n, values.data(), work.data(), &lwork, &info);
  if (info != 0) throw RunError(text("LAPACK's dsyev failed with info = ", info));
  return values;
}

// This rank's rows of some vectors, column by column.
struct Columns {
  std::vector<double> numbers;
  int count = 0;
};

// A basis that grows, of which every rank has its rows.
class Basis {
 public:
  explicit Basis(const SymmetricOperator& matrix)
      : communicator_(matrix.communicator()),
        rows_(static_cast<int>(matrix.own().count())),
        leading_(std::max(1, rows_)) {}

  int count() const { return all_.count; }

  // Collective. a^T b, on all ranks.
  std::vector<double> products(const Columns& a, const Columns& b) const {
    std::vector<double> sums(static_cast<std::size_t>(a.count) * static_cast<std::size_t>(b.count));
    if (sums.empty()) return sums;
    dgemm_("T", "N", &a.count, &b.count, &rows_, &one, a.numbers.data(), &leading_, b.numbers.data(), &leading_, &zero,
           sums.data(), &a.count);
    return communicator_.sum(std::move(sums));
  }
  std::vector<double> products_with_all(const Columns& block) const { return products(all_, block); }

  // Q times a matrix, column by column.
  Columns times(const double* matrix, int columns) const { return times(all_, matrix, columns); }

  // Collective. Takes from the block what lies in the basis, and makes the rest orthonormal, which may be fewer
  // vectors.
  void make_orthonormal(Columns& block) const {
    constexpr int times = 2;  // what rounding has left of the first time
    for (int time = 0; time < times && block.count > 0; ++time) {
      project_out(block);
      project_out(block);
      normalise(block);
    }
  }

  void append(const Columns& block) {
    all_.numbers.insert(all_.numbers.end(), block.numbers.begin(), block.numbers.end());
    all_.count += block.count;
  }

  // Collective. Largest |Q^T Q - I|.
  double orthogonality_error() const {
    const auto gram = products(all_, all_);
    double worst = 0;
    const auto n = static_cast<std::size_t>(all_.count);
    for (std::size_t k = 0; k < gram.size(); ++k) {
      worst = std::max(worst, std::abs(gram[k] - (k / n == k % n ? 1 : 0)));
    }
    return worst;
  }

 private:
  Columns times(const Columns& vectors, const double* matrix, int columns) const {
    Columns result{std::vector<double>(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(columns)), columns};
    if (columns > 0) {
      dgemm_("N", "N", &rows_, &columns, &vectors.count, &one, vectors.numbers.data(), &leading_, matrix,
             &vectors.count, &zero, result.numbers.data(), &leading_);
    }
    return result;
  }

  void project_out(Columns& block) const {
    if (all_.count == 0 || block.count == 0) return;
    const auto along = products(all_, block);
    dgemm_("N", "N", &rows_, &block.count, &all_.count, &minus_one, all_.numbers.data(), &leading_, along.data(),
           &all_.count, &one, block.numbers.data(), &leading_);
  }

  // By the eigenvectors of the block's Gram matrix: directions that are rounding fall away.
  void normalise(Columns& block) const {
    auto gram = products(block, block);
    const auto squares = eigenvectors_in_place(gram, block.count);
    const double least = shortest * shortest * std::max(squares.back(), std::numeric_limits<double>::min());
    const auto dropped = static_cast<int>(
        std::count_if(squares.begin(), squares.end(), [&](double square) { return !(square > least); }));
    const int kept = block.count - dropped;
    const auto b = static_cast<std::size_t>(block.count);
    for (std::size_t k = static_cast<std::size_t>(dropped) * b; k < gram.size(); ++k)
      gram[k] /= std::sqrt(squares[k / b]);
    block = times(block, gram.data() + static_cast<std::size_t>(dropped) * b, kept);
  }

  const ranks::Communicator& communicator_;
  int rows_;
  int leading_;
  Columns all_;
};

// B = Q^T A Q, as its columns come.
class Projection {
 public:
  // along: Q^T A times the last vectors of Q.
  void append(const std::vector<double>& along, int count, int vectors) {
    for (int j = 0; j < vectors; ++j) {
      columns_.emplace_back(along.begin() + std::int64_t{j} * count, along.begin() + std::int64_t{j + 1} * count);
    }
  }
  std::vector<double> whole() const {
    const auto n = columns_.size();
    std::vector<double> numbers(n * n);
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t i = 0; i < std::min(columns_[j].size(), n); ++i)
        numbers[j * n + i] = numbers[i * n + j] = columns_[j][i];
    }
    return numbers;
  }

 private:
  std::vector<std::vector<double>> columns_;  // of each those rows that were there
};

Columns times(SymmetricOperator& matrix, const Columns& block) {
  Columns product{std::vector<double>(block.numbers.size()), block.count};
  matrix.multiply(block.numbers.data(), block.count, product.numbers.data());
  return product;
}

// Collective. A times new random vectors, as far as that is not in the basis.
Columns new_start(SymmetricOperator& matrix, const Basis& basis, const LowRankOptions& options, std::uint64_t seed) {
  const auto count = std::min(options.at_once, matrix.size());
  const Columns random{random_unit_vectors(matrix, count, seed), static_cast<int>(count)};
  auto block = times(matrix, random);
  basis.make_orthonormal(block);
  return block;
}

// Collective. Of the eigenvalues beyond the bound; whole: of B, columns in the order of its values.
void find_eigenvectors(StoredOperator& matrix, const Basis& basis, const std::vector<double>& whole,
                       std::int64_t at_once, LowRank& result) {
  std::vector<double> chosen;
  const auto n = result.values.size();
  for (std::size_t k = 0; k < n; ++k) {
    if (std::abs(result.values[k]) <= result.error_bound) continue;
    const auto* column = whole.data() + k * n;
    chosen.insert(chosen.end(), column, column + n);
  }
  result.eigenvectors = basis.times(chosen.data(), static_cast<int>(result.beyond.size())).numbers;
  result.residuals = residuals(matrix, result.beyond, result.eigenvectors, at_once);
}

}  // namespace

std::uint64_t bytes_of_low_rank(std::int64_t own_rows, std::int64_t n, const LowRankOptions& options) {
  const auto own = own_rows * ((options.eigenvectors ? 2 : 1) * options.most + 4 * options.at_once);
  const auto everywhere = 3 * options.most * options.most + 4 * n * options.at_once;
  return static_cast<std::uint64_t>(own + everywhere) * sizeof(double);
}

LowRank low_rank(StoredOperator& matrix, const LowRankOptions& options,
                 const std::function<void(std::int64_t, double)>& made) {
  const auto before = matrix.passes();
  const auto sums = matrix.sums();
  LowRank result;
  result.norm = std::sqrt(sums.squares);
  result.trace = sums.trace;
  // What both sums of squares are known to, which is N numbers' rounding where signs are random.
  const double rounding = 2 * std::numeric_limits<double>::epsilon() * std::sqrt(static_cast<double>(matrix.size()));
  Basis basis(matrix);
  Projection projection;
  std::vector<double> whole;
  double squares = 0;  // of B's numbers
  auto block = new_start(matrix, basis, options, options.seed);
  std::uint64_t seed = options.seed;
  while (block.count > 0 && basis.count() + block.count <= options.most) {
    basis.append(block);
    auto product = times(matrix, block);
    const auto along = basis.products_with_all(product);
    projection.append(along, basis.count(), block.count);
    whole = projection.whole();
    squares = static_cast<double>(std::inner_product(whole.begin(), whole.end(), whole.begin(), 0.0L));
    result.error_bound = std::sqrt(std::max(0.0, sums.squares - squares) + rounding * sums.squares);
    result.found = result.error_bound <= options.tolerance * result.norm;
    if (made) made(basis.count(), result.norm > 0 ? result.error_bound / result.norm : 0);
    if (result.found) break;
    block = std::move(product);
    basis.make_orthonormal(block);
    // An eigenvalue that is there more often than a block has vectors needs another start.
    if (block.count == 0) block = new_start(matrix, basis, options, ++seed);
  }
  result.found = result.found || result.norm == 0;
  result.vectors = basis.count();
  result.passes = matrix.passes() - before;
  if (!result.found) return result;
  double trace = 0;
  const auto n = static_cast<std::size_t>(basis.count());
  for (std::size_t i = 0; i < n; ++i) trace += whole[i * n + i];
  result.trace_error = std::abs(sums.trace - trace);
  result.orthogonality_error = basis.orthogonality_error();
  if (n > 0) result.values = eigenvectors_in_place(whole, static_cast<int>(n));
  std::copy_if(result.values.begin(), result.values.end(), std::back_inserter(result.beyond),
               [&](double x) { return std::abs(x) > result.error_bound; });
  if (options.eigenvectors) find_eigenvectors(matrix, basis, whole, options.at_once, result);
  result.passes = matrix.passes() - before;
  return result;
}

}  // namespace hessian_mpi::solvers
