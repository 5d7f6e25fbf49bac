#include "hessian_mpi/solvers/symmetric_operator.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "hessian_mpi/after/matrix_product.hpp"
#include "hessian_mpi/base/error.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {
namespace {

// Its rows come as double.
matrix::MatrixShape shape_of_block(const std::vector<Rows>& ranges) {
  std::int64_t n = 0;
  for (const auto& range : ranges) n += range.count();
  return {matrix::BlockGrid(n, n * static_cast<std::int64_t>(sizeof(double))), n, Precision::float64};
}

}  // namespace

SymmetricOperator::SymmetricOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
                                     std::uint64_t memory, const ranks::Communicator& communicator)
    : SymmetricOperator(path, matrix, {}, memory, communicator) {}

SymmetricOperator::SymmetricOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
                                     const std::vector<Rows>& ranges, std::uint64_t memory,
                                     const ranks::Communicator& communicator)
    : matrix_(ranges.empty() ? matrix : shape_of_block(ranges)),
      communicator_(communicator),
      own_(file::rows_of_rank(matrix_, communicator.rank(), communicator.size())),
      ranges_(ranges) {
  communicator.together([&] {
    if (ranges.empty()) {
      stream_.emplace(path, matrix_, file::slabs_of(own_, matrix_));
    } else {
      reader_.emplace(path);
    }
  });
  const auto bytes = static_cast<std::uint64_t>(own_.count() * matrix_.bytes_of_row());
  in_memory_ = communicator.max(std::int64_t{bytes > memory}) == 0;
  if (!in_memory_) return;
  communicator.together([&] {
    rows_.reserve(bytes);
    each_stored_slab([&](const file::Slab& slab) { rows_.insert(rows_.end(), slab.bytes, slab.bytes + slab.size()); });
  });
}

void SymmetricOperator::each_stored_slab(const std::function<void(const file::Slab&)>& visit) {
  if (stream_) {
    stream_->each(visit);
    return;
  }
  for (const auto& rows : file::slabs_of(own_, matrix_)) {
    const auto numbers = reader_->rows_of_block(ranges_, rows);
    visit({rows, matrix_.columns, matrix_.storage, reinterpret_cast<const char*>(numbers.data())});
  }
}

void SymmetricOperator::each_slab(const std::function<void(const file::Slab&)>& visit) {
  if (!in_memory_) {
    each_stored_slab(visit);
    return;
  }
  const auto* bytes = rows_.data();
  for (const auto& rows : file::slabs_of(own_, matrix_)) {
    const file::Slab slab{rows, matrix_.columns, matrix_.storage, bytes};
    visit(slab);
    bytes += slab.size();
  }
}

void SymmetricOperator::add_slab(const file::Slab& slab, const double* whole, const double* own, std::int64_t count,
                                 double* by_rows, double* by_columns) {
  as_double_.resize(static_cast<std::size_t>(slab.rows.count() * slab.columns));
  file::with_numbers(slab, [&](const auto* numbers) {
    std::copy(numbers, numbers + slab.rows.count() * slab.columns, as_double_.begin());
  });
  constexpr double one = 1;
  constexpr double zero = 0;
  constexpr int step = 1;
  const int n = static_cast<int>(slab.columns);
  const int height = static_cast<int>(slab.rows.count());
  const int own_rows = static_cast<int>(own_.count());
  const int vectors = static_cast<int>(count);
  const auto first = slab.rows.begin - own_.begin;
  // To BLAS, which counts down columns, these rows are columns.
  if (count == 1) {
    dgemv_("T", &n, &height, &one, as_double_.data(), &n, whole, &step, &zero, by_rows + first, &step);
    dgemv_("N", &n, &height, &one, as_double_.data(), &n, own + first, &step, &one, by_columns, &step);
  } else {
    dgemm_("T", "N", &height, &vectors, &n, &one, as_double_.data(), &n, whole, &n, &zero, by_rows + first, &own_rows);
    dgemm_("N", "N", &n, &vectors, &height, &one, as_double_.data(), &n, own + first, &own_rows, &one, by_columns, &n);
  }
}

void SymmetricOperator::multiply(const double* own, std::int64_t count, double* products) {
  ++passes_;
  const auto whole = after::whole_product({own, own + own_.count() * count}, count, matrix_, communicator_);
  auto by_columns = communicator_.together([&] {
    std::vector<double> sums(static_cast<std::size_t>(size() * count));
    each_slab([&](const file::Slab& slab) { add_slab(slab, whole.data(), own, count, products, sums.data()); });
    return sums;
  });
  by_columns = communicator_.sum(std::move(by_columns));
  communicator_.together([&] {
    for (std::int64_t v = 0; v < count; ++v) {
      for (std::int64_t i = 0; i < own_.count(); ++i) {
        auto& product = products[v * own_.count() + i];
        product = 0.5 * (product + by_columns[static_cast<std::size_t>(v * size() + own_.begin + i)]);
        if (!std::isfinite(product)) {
          throw RunError(text("H times a vector is not finite at row ", own_.begin + i,
                              ": H has NaN or infinity in that row or column"));
        }
      }
    }
  });
}

SymmetricOperator::Sums SymmetricOperator::sums() {
  ++passes_;
  auto own = communicator_.together([&] {
    long double squares = 0;  // differences of such sums are looked at
    double trace = 0;
    each_slab([&](const file::Slab& slab) {
      file::with_numbers(slab, [&](const auto* numbers) {
        for (std::int64_t i = 0; i < slab.rows.count(); ++i) {
          const auto* row = numbers + i * slab.columns;
          squares += std::inner_product(row, row + slab.columns, row, 0.0, std::plus<>(),
                                        [](double x, double y) { return x * y; });
          trace += static_cast<double>(row[slab.rows.begin + i]);
        }
      });
    });
    return std::vector<double>{static_cast<double>(squares), trace};
  });
  own = communicator_.sum(std::move(own));
  if (!std::isfinite(own[0])) {
    communicator_.together([] { throw RunError("H has NaN or infinity, or numbers whose squares overflow"); });
  }
  return {own[0], own[1]};
}

}  // namespace hessian_mpi::solvers
