#pragma once
/// The diagonal of the matrix alone, from engines that make rows.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/engines/engine.hpp"

namespace hessian_mpi::engines {

/// Has another engine make small squares along the diagonal and keeps theirs. For rows of one parameter at a time.
class Diagonal final : public Engine {
 public:
  /// The engine must outlive the object.
  explicit Diagonal(Engine& engine) : engine_(engine) {}
  std::string name() const override { return engine_.name(); }
  std::int64_t rows_at_once() const override { return engine_.rows_at_once(); }
  std::uint64_t bytes_per_row(std::int64_t columns) const override;
  /// One number a row, whatever the columns.
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;
  Passes passes() const override { return engine_.passes(); }

 private:
  Engine& engine_;
  std::vector<char> square_;
};

}  // namespace hessian_mpi::engines
