#pragma once
/// The L2 term's part of the Hessian: lambda on the diagonal. Added to finished rows, since rows are factored by layer
/// only where a weight enters the loss through its layer alone, and this term is another place.

#include <cstdint>
#include <functional>
#include <string>

#include "hessian_mpi/engines/engine.hpp"

namespace hessian_mpi::engines {

/// Makes rows by another engine and adds lambda to each of their diagonal entries. For the rows of the file alone:
/// those that an engine hands to another one as columns would get it twice.
class WithL2Term final : public Engine {
 public:
  /// The engine must outlive the object.
  WithL2Term(Engine& engine, double lambda) : engine_(engine), lambda_(lambda) {}
  std::string name() const override { return engine_.name(); }
  std::int64_t rows_at_once() const override { return engine_.rows_at_once(); }
  std::uint64_t bytes_per_row(std::int64_t columns) const override { return engine_.bytes_per_row(columns); }
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;
  Passes passes() const override { return engine_.passes(); }

 private:
  Engine& engine_;
  double lambda_;
};

}  // namespace hessian_mpi::engines
