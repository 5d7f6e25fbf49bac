#pragma once
/// A symmetric matrix as something that multiplies vectors, which is all that iterative methods ask of it. Every rank
/// has contiguous elements of each vector.

#include <cstdint>
#include <vector>

#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::solvers {

class SymmetricOperator {
 public:
  /// own: the elements of this rank; the ranks' follow each other. The communicator must outlive the object.
  SymmetricOperator(std::int64_t size, const Rows& own, const ranks::Communicator& communicator)
      : size_(size), own_(own), communicator_(communicator) {}
  virtual ~SymmetricOperator() = default;
  SymmetricOperator(const SymmetricOperator&) = delete;
  SymmetricOperator& operator=(const SymmetricOperator&) = delete;

  std::int64_t size() const { return size_; }
  const Rows& own() const { return own_; }
  const ranks::Communicator& communicator() const { return communicator_; }

  /// Collective. own: of `count` vectors, one after the other, this rank's own().count() numbers each; products: of A
  /// times each of them the same. Throws on all ranks: RunError where a product is not finite, among others.
  void multiply(const double* own, std::int64_t count, double* products) {
    ++passes_;
    apply(own, count, products);
  }

  /// How often the matrix was gone through.
  std::int64_t passes() const { return passes_; }

 protected:
  void count_pass() { ++passes_; }

 private:
  virtual void apply(const double* own, std::int64_t count, double* products) = 0;

  std::int64_t size_;
  Rows own_;
  const ranks::Communicator& communicator_;
  std::int64_t passes_ = 0;
};

}  // namespace hessian_mpi::solvers
