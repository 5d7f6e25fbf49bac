#include "hessian_mpi/l2_term.hpp"

namespace hessian_mpi {
namespace {

template <class Number>
void add_to_diagonal(const Rows& rows, std::int64_t columns, double lambda, Number* numbers) {
  for (auto i = rows.begin; i < rows.end; ++i) {
    Number& entry = numbers[(i - rows.begin) * columns + i];
    entry = static_cast<Number>(static_cast<double>(entry) + lambda);
  }
}

}  // namespace

void WithL2Term::compute(const Rows& rows, Precision storage, void* out, const std::function<void(double)>& advance) {
  engine_.compute(rows, storage, out, advance);
  if (lambda_ == 0) return;  // which would make a positive zero of a negative one
  if (storage == Precision::float32) {
    add_to_diagonal(rows, columns_, lambda_, static_cast<float*>(out));
  } else {
    add_to_diagonal(rows, columns_, lambda_, static_cast<double*>(out));
  }
}

}  // namespace hessian_mpi
