#include "hessian_mpi/engines/l2_term.hpp"

#include <algorithm>

namespace hessian_mpi::engines {
namespace {

template <class Number>
void add_to_diagonal(const Rows& rows, const Rows& columns, double lambda, Number* numbers) {
  for (auto i = std::max(rows.begin, columns.begin); i < std::min(rows.end, columns.end); ++i) {
    Number& entry = numbers[(i - rows.begin) * columns.count() + i - columns.begin];
    entry = static_cast<Number>(static_cast<double>(entry) + lambda);
  }
}

}  // namespace

void WithL2Term::compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
                         const std::function<void(double)>& advance) {
  engine_.compute(rows, columns, storage, out, advance);
  if (lambda_ == 0) return;  // which would make a positive zero of a negative one
  with_numbers(storage, out, [&](auto* numbers) { add_to_diagonal(rows, columns, lambda_, numbers); });
}

}  // namespace hessian_mpi::engines
