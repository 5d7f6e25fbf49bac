#pragma once
/// Rows of a symmetric matrix by an engine that makes any columns: here those from one on, and those before it from the
/// rows of earlier steps.

#include <cstdint>
#include <functional>
#include <string>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/layers/earlier_columns.hpp"

namespace hessian_mpi::layers {

class LaterColumns final : public engines::Engine {
 public:
  /// first: the column from which on the engine makes them. earlier: what brings those before it to rows that are asked
  /// for in all columns; of others only columns from the first on may be asked for. Both must outlive the object.
  LaterColumns(engines::Engine& engine, std::int64_t first, const EarlierColumns& earlier)
      : engine_(engine), first_(first), earlier_(earlier) {}
  std::string name() const override { return engine_.name(); }
  std::int64_t rows_at_once() const override { return engine_.rows_at_once(); }
  std::uint64_t bytes_per_row(std::int64_t columns) const override { return engine_.bytes_per_row(columns); }
  engines::Passes passes() const override { return engine_.passes(); }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;

 private:
  engines::Engine& engine_;
  std::int64_t first_;
  const EarlierColumns& earlier_;
};

}  // namespace hessian_mpi::layers
