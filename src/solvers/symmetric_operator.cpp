#include "hessian_mpi/solvers/symmetric_operator.hpp"

#include <algorithm>
#include <cmath>

#include "hessian_mpi/after/matrix_product.hpp"
#include "hessian_mpi/base/error.hpp"
#include "scalapack.hpp"

namespace hessian_mpi::solvers {

SymmetricOperator::SymmetricOperator(const std::filesystem::path& path, const matrix::MatrixShape& matrix,
                                     std::uint64_t memory, const ranks::Communicator& communicator)
    : matrix_(matrix),
      communicator_(communicator),
      own_(file::rows_of_rank(matrix, communicator.rank(), communicator.size())),
      stream_(communicator.together([&] { return file::RowStream(path, matrix, file::slabs_of(own_, matrix)); })) {
  const auto bytes = static_cast<std::uint64_t>(own_.count() * matrix.bytes_of_row());
  in_memory_ = communicator.max(std::int64_t{bytes > memory}) == 0;
  if (!in_memory_) return;
  communicator.together([&] {
    rows_.reserve(bytes);
    stream_.each([&](const file::Slab& slab) { rows_.insert(rows_.end(), slab.bytes, slab.bytes + slab.size()); });
  });
}

void SymmetricOperator::each_slab(const std::function<void(const file::Slab&)>& visit) {
  if (!in_memory_) {
    stream_.each(visit);
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

}  // namespace hessian_mpi::solvers
