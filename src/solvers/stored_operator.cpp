#include "hessian_mpi/solvers/stored_operator.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

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

StoredOperator::StoredOperator(const matrix::MatrixShape& matrix, std::vector<Rows> ranges,
                               const ranks::Communicator& communicator)
    : SymmetricOperator(matrix.columns, file::rows_of_rank(matrix, communicator.rank(), communicator.size()),
                        communicator),
      matrix_(matrix),
      ranges_(std::move(ranges)) {}

StoredOperator::StoredOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
                               std::uint64_t memory, const ranks::Communicator& communicator)
    : StoredOperator(path, matrix, {}, memory, communicator) {}

StoredOperator::StoredOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
                               const std::vector<Rows>& ranges, std::uint64_t memory,
                               const ranks::Communicator& communicator)
    : StoredOperator(ranges.empty() ? matrix : shape_of_block(ranges), ranges, communicator) {
  communicator.together([&] {
    if (ranges.empty()) {
      stream_.emplace(path, matrix_, file::slabs_of(own(), matrix_));
    } else {
      reader_.emplace(path);
    }
  });
  const auto bytes = static_cast<std::uint64_t>(own().count() * matrix_.bytes_of_row());
  in_memory_ = communicator.max(std::int64_t{bytes > memory}) == 0;
  if (!in_memory_) return;
  communicator.together([&] {
    rows_.reserve(bytes);
    each_stored_slab([&](const file::Slab& slab) { rows_.insert(rows_.end(), slab.bytes, slab.bytes + slab.size()); });
  });
}

void StoredOperator::each_stored_slab(const std::function<void(const file::Slab&)>& visit) {
  if (stream_) {
    stream_->each(visit);
    return;
  }
  for (const auto& rows : file::slabs_of(own(), matrix_)) {
    const auto numbers = reader_->rows_of_block(ranges_, rows);
    visit({rows, matrix_.columns, matrix_.storage, reinterpret_cast<const char*>(numbers.data())});
  }
}

void StoredOperator::each_slab(const std::function<void(const file::Slab&)>& visit) {
  if (!in_memory_) {
    each_stored_slab(visit);
    return;
  }
  const auto* bytes = rows_.data();
  for (const auto& rows : file::slabs_of(own(), matrix_)) {
    const file::Slab slab{rows, matrix_.columns, matrix_.storage, bytes};
    visit(slab);
    bytes += slab.size();
  }
}

void StoredOperator::add_slab(const file::Slab& slab, const double* whole, const double* vectors_here,
                              std::int64_t count, double* by_rows, double* by_columns) {
  as_double_.resize(static_cast<std::size_t>(slab.rows.count() * slab.columns));
  file::with_numbers(slab, [&](const auto* numbers) {
    std::copy(numbers, numbers + slab.rows.count() * slab.columns, as_double_.begin());
  });
  constexpr int step = 1;
  const int n = static_cast<int>(slab.columns);
  const int height = static_cast<int>(slab.rows.count());
  const int own_rows = static_cast<int>(own().count());
  const int vectors = static_cast<int>(count);
  const auto first = slab.rows.begin - own().begin;
  // To BLAS, which counts down columns, these rows are columns.
  if (count == 1) {
    dgemv_("T", &n, &height, &one, as_double_.data(), &n, whole, &step, &zero, by_rows + first, &step);
    dgemv_("N", &n, &height, &one, as_double_.data(), &n, vectors_here + first, &step, &one, by_columns, &step);
  } else {
    dgemm_("T", "N", &height, &vectors, &n, &one, as_double_.data(), &n, whole, &n, &zero, by_rows + first, &own_rows);
    dgemm_("N", "N", &n, &vectors, &height, &one, as_double_.data(), &n, vectors_here + first, &own_rows, &one,
           by_columns, &n);
  }
}

void StoredOperator::apply(const double* vectors_here, std::int64_t count, double* products) {
  const auto whole =
      after::whole_product({vectors_here, vectors_here + own().count() * count}, count, matrix_, communicator());
  auto by_columns = communicator().together([&] {
    std::vector<double> sums(static_cast<std::size_t>(size() * count));
    each_slab(
        [&](const file::Slab& slab) { add_slab(slab, whole.data(), vectors_here, count, products, sums.data()); });
    return sums;
  });
  by_columns = communicator().sum(std::move(by_columns));
  communicator().together([&] {
    for (std::int64_t v = 0; v < count; ++v) {
      for (std::int64_t i = 0; i < own().count(); ++i) {
        auto& product = products[v * own().count() + i];
        product = 0.5 * (product + by_columns[static_cast<std::size_t>(v * size() + own().begin + i)]);
        if (!std::isfinite(product)) {
          throw RunError(text("H times a vector is not finite at row ", own().begin + i,
                              ": H has NaN or infinity in that row or column"));
        }
      }
    }
  });
}

StoredOperator::Sums StoredOperator::sums() {
  count_pass();
  auto sums = communicator().together([&] {
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
  sums = communicator().sum(std::move(sums));
  if (!std::isfinite(sums[0])) {
    communicator().together([] { throw RunError("H has NaN or infinity, or numbers whose squares overflow"); });
  }
  return {sums[0], sums[1]};
}

}  // namespace hessian_mpi::solvers
