#pragma once
/// Rows of a matrix J^T A J (output_map.hpp) as products: J [K, N] takes a backward pass for each of the K outputs of
/// all batches, and A one through the loss, split over the ranks; A is kept without its zeros, which are most of it
/// where samples do not meet in the loss. A number of the matrix is one sum over outputs, from the first to the last.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hessian_mpi/engines/engine.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::engines {

class JacobianFactors final : public Engine {
 public:
  /// Collective over the communicator. matrix: ggn or fisher. accumulate: precision of J and of the sums. The problem
  /// must outlive the engine. between: called before the first pass and after each second of them, by all ranks at the
  /// same point; throws, on all of them, to end it. Throws what output_map() throws.
  JacobianFactors(
      const network::Problem& problem, Matrix matrix, Precision accumulate, const ranks::Communicator& communicator,
      const std::function<void()>& between = [] {});
  ~JacobianFactors() override;
  JacobianFactors(const JacobianFactors&) = delete;
  JacobianFactors& operator=(const JacobianFactors&) = delete;

  std::string name() const override { return "outputs"; }
  std::int64_t rows_at_once() const override { return 64; }
  std::uint64_t bytes_per_row(std::int64_t /*columns*/) const override;
  void compute(const Rows& rows, const Rows& columns, Precision storage, void* out,
               const std::function<void(double)>& advance) override;

  class Numbers;  // in numbers of one precision

 private:
  std::unique_ptr<Numbers> numbers_;
};

/// Not collective. K, where rows of the matrix are to come of J; 0 where they are to be made one by one, as always with
/// Method::rows, with automatic where there are more outputs than parameters or J takes more than 8 GB, and for a
/// Hessian. Runs the network.
std::int64_t outputs_to_factor(const network::Problem& problem, Matrix matrix, Method method);

}  // namespace hessian_mpi::engines
