#include "hessian_mpi/solvers/lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

constexpr int step_of_one = 1;

// What is left of a product after it was made orthogonal to the basis, in parts of it: less than this is rounding.
constexpr double end_of_krylov_space = 1e-12;

// Long sums are made of short ones: numbers that are all alike, as those of a vector of random signs, err by up to N
// epsilon where they are added up one after the other. So many rows of a hundred vectors stay in the cache, too.
constexpr int rows_of_piece = 1024;

template <class OfPiece>
void by_pieces(int rows, const OfPiece& of_piece) {
  for (int begin = 0; begin < rows; begin += rows_of_piece) of_piece(begin, std::min(rows_of_piece, rows - begin));
}

// The basis of one vector and its tridiagonal matrix, as far as they have come.
struct Process {
  std::vector<double> basis;     // this rank's numbers, vector after vector
  std::vector<double> diagonal;  // alpha
  std::vector<double> beside;    // beta
  bool ended = false;
};

class Processes {
 public:
  Processes(SymmetricOperator& matrix, const std::vector<double>& starts, std::int64_t vectors, std::int64_t steps)
      : matrix_(matrix), rows_(static_cast<int>(matrix.own().count())), all_(static_cast<std::size_t>(vectors)) {
    for (std::size_t v = 0; v < all_.size(); ++v) {
      all_[v].basis.reserve(static_cast<std::size_t>((steps + 1) * rows_));
      const auto* start = starts.data() + static_cast<std::int64_t>(v) * rows_;
      all_[v].basis.assign(start, start + rows_);
    }
  }

  // Collective. One step of every process that goes on; false where none does.
  bool step() {
    std::vector<std::size_t> going;
    for (std::size_t v = 0; v < all_.size(); ++v) {
      if (!all_[v].ended) going.push_back(v);
    }
    if (going.empty()) return false;
    std::vector<double> last;
    for (const auto v : going) last.insert(last.end(), all_[v].basis.end() - rows_, all_[v].basis.end());
    std::vector<double> products(last.size());
    matrix_.multiply(last.data(), static_cast<std::int64_t>(going.size()), products.data());
    const auto before = norms(products, going.size());
    const auto along_last = make_orthogonal(going, products);
    const auto after = norms(products, going.size());
    for (std::size_t k = 0; k < going.size(); ++k) {
      auto& process = all_[going[k]];
      process.diagonal.push_back(along_last[k]);
      process.ended = after[k] <= end_of_krylov_space * std::max(before[k], largest_);
      largest_ = std::max(largest_, before[k]);
      if (process.ended) continue;
      process.beside.push_back(after[k]);
      const auto* product = products.data() + static_cast<std::int64_t>(k) * rows_;
      const auto end = process.basis.size();
      process.basis.resize(end + static_cast<std::size_t>(rows_));
      std::transform(product, product + rows_, process.basis.data() + end, [&](double x) { return x / after[k]; });
    }
    return true;
  }

  // Collective.
  double orthogonality_error() const {
    double worst = 0;
    for (const auto& process : all_) {
      const int count = length(process);
      std::vector<double> products(static_cast<std::size_t>(count) * static_cast<std::size_t>(count));
      by_pieces(rows_, [&](int begin, int rows) {
        const auto* piece = process.basis.data() + begin;
        dgemm_("T", "N", &count, &count, &rows, &one, piece, &rows_, piece, &rows_, &one, products.data(), &count);
      });
      products = matrix_.communicator().sum(std::move(products));
      for (int i = 0; i < count; ++i) {
        for (int j = 0; j < count; ++j) {
          const double error = std::abs(
              products[static_cast<std::size_t>(i) * static_cast<std::size_t>(count) + static_cast<std::size_t>(j)] -
              (i == j ? 1 : 0));
          worst = std::max(worst, error);
        }
      }
    }
    return worst;
  }

  const std::vector<Process>& all() const { return all_; }

 private:
  static int length(const Process& process) { return static_cast<int>(process.diagonal.size()); }

  // Collective. Of so many vectors, one after the other.
  std::vector<double> norms(const std::vector<double>& vectors, std::size_t count) const {
    std::vector<double> squares;
    for (std::size_t k = 0; k < count; ++k) {
      const auto* vector = vectors.data() + static_cast<std::ptrdiff_t>(k) * rows_;
      squares.push_back(0);
      by_pieces(rows_, [&](int begin, int rows) {
        squares.back() += std::inner_product(vector + begin, vector + begin + rows, vector + begin, 0.0);
      });
    }
    squares = matrix_.communicator().sum(std::move(squares));
    for (auto& square : squares) square = std::sqrt(square);
    return squares;
  }

  // Collective. Takes from each vector what lies along the basis of its process; returns what lay along the last of it.
  // But for rounding all of that lies along the last two, which are taken first, as twice is enough; what lies along
  // the whole basis then is found piece by piece meanwhile.
  std::vector<double> make_orthogonal(const std::vector<std::size_t>& going, std::vector<double>& vectors) const {
    std::vector<std::vector<double>> last;
    std::vector<std::vector<double>> rest;
    for (const auto v : going) {
      rest.emplace_back(all_[v].diagonal.size() + 1);
      last.emplace_back(std::min<std::size_t>(2, rest.back().size()));
    }
    for_pieces(going, vectors, [&](std::size_t k, const Piece& piece) { piece.add_along(last[k]); });
    last = summed(last);
    for_pieces(going, vectors, [&](std::size_t k, const Piece& piece) {
      piece.take_away(last[k]);
      piece.add_along(rest[k]);
    });
    rest = summed(rest);
    for_pieces(going, vectors, [&](std::size_t k, const Piece& piece) { piece.take_away(rest[k]); });
    std::vector<double> along_last;
    for (std::size_t k = 0; k < going.size(); ++k) along_last.push_back(last[k].back() + rest[k].back());
    return along_last;
  }

  // Some rows of a basis, up to its last vector, and of a vector.
  struct Piece {
    const double* last;
    int stride;
    int rows;
    double* vector;

    // Along the last vectors of the basis, as many as there are numbers.
    void add_along(std::vector<double>& along) const {
      const int count = static_cast<int>(along.size());
      dgemv_("T", &rows, &count, &one, first_of(count), &stride, vector, &step_of_one, &one, along.data(),
             &step_of_one);
    }
    void take_away(const std::vector<double>& along) const {
      const int count = static_cast<int>(along.size());
      dgemv_("N", &rows, &count, &minus_one, first_of(count), &stride, along.data(), &step_of_one, &one, vector,
             &step_of_one);
    }
    const double* first_of(std::ptrdiff_t count) const { return last - (count - 1) * stride; }
  };

  template <class OfPiece>
  void for_pieces(const std::vector<std::size_t>& going, std::vector<double>& vectors, const OfPiece& of_piece) const {
    for (std::size_t k = 0; k < going.size(); ++k) {
      const auto& basis = all_[going[k]].basis;
      by_pieces(rows_, [&](int begin, int rows) {
        of_piece(k, Piece{basis.data() + basis.size() - rows_ + begin, rows_, rows,
                          vectors.data() + static_cast<std::ptrdiff_t>(k) * rows_ + begin});
      });
    }
  }

  // Collective.
  std::vector<std::vector<double>> summed(std::vector<std::vector<double>> of_processes) const {
    std::vector<double> all;
    for (const auto& numbers : of_processes) all.insert(all.end(), numbers.begin(), numbers.end());
    all = matrix_.communicator().sum(std::move(all));
    auto next = all.begin();
    for (auto& numbers : of_processes) {
      std::copy_n(next, numbers.size(), numbers.begin());
      next += static_cast<std::ptrdiff_t>(numbers.size());
    }
    return of_processes;
  }

  SymmetricOperator& matrix_;
  int rows_;
  std::vector<Process> all_;
  double largest_ = 0;  // norm of a product so far
};

RitzValues ritz_values(const Process& process) {
  const int n = static_cast<int>(process.diagonal.size());
  auto diagonal = process.diagonal;
  auto beside = process.beside;
  beside.resize(diagonal.size());
  std::vector<double> vectors(diagonal.size() * diagonal.size());
  std::vector<double> work(2 * diagonal.size());
  int info = 0;
  dstev_("V", &n, diagonal.data(), beside.data(), vectors.data(), &n, work.data(), &info);
  if (info != 0) throw RunError(text("LAPACK's dstev failed with info = ", info));
  RitzValues ritz{diagonal, {}};
  for (std::size_t k = 0; k < diagonal.size(); ++k) {
    const double of_start = vectors[k * diagonal.size()];
    ritz.weights.push_back(of_start * of_start);
  }
  return ritz;
}

}  // namespace

std::uint64_t bytes_of_lanczos(std::int64_t own_rows, std::int64_t vectors, std::int64_t steps) {
  return static_cast<std::uint64_t>((steps + 3) * vectors * own_rows) * sizeof(double);
}

LanczosResult lanczos(SymmetricOperator& matrix, const std::vector<double>& starts, std::int64_t vectors,
                      std::int64_t steps, const std::function<void(std::int64_t)>& made) {
  auto processes = matrix.communicator().together(
      [&] { return Processes(matrix, starts, vectors, std::min(steps, matrix.size())); });
  for (std::int64_t k = 0; k < std::min(steps, matrix.size()) && processes.step(); ++k) {
    if (made) made(k + 1);
  }
  LanczosResult result;
  result.orthogonality_error = processes.orthogonality_error();
  matrix.communicator().together([&] {
    for (const auto& process : processes.all()) result.of_vectors.push_back(ritz_values(process));
  });
  return result;
}

std::vector<double> random_unit_vectors(const SymmetricOperator& matrix, std::int64_t vectors, std::uint64_t seed) {
  const double magnitude = 1 / std::sqrt(static_cast<double>(matrix.size()));
  auto own = after::random_signs(vectors, matrix.own(), seed);
  for (auto& number : own) number *= magnitude;
  return own;
}

double estimated_norm(SymmetricOperator& matrix, std::uint64_t seed) {
  constexpr std::int64_t steps = 20;
  const auto found = lanczos(matrix, random_unit_vectors(matrix, 1, seed), 1, steps);
  const auto& values = found.of_vectors.front().values;
  return std::max(std::abs(values.front()), std::abs(values.back()));
}

}  // namespace hessian_mpi::solvers
