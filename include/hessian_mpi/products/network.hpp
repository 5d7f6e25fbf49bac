#pragma once
/// A network in the place of a file: what programs ask of a matrix that is multiplied with and never made.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/ranks/communicator.hpp"
#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi::products {

class Network {
 public:
  /// Collective. Loads model and data, takes loss and gradient, and checks a product (product_check.hpp). Chooses
  /// LibTorch's kernels for the life of the object, one at a time. between: called by all ranks now and then; what it
  /// throws, on all of them, ends what is under way. Options and communicator must outlive the object. Throws
  /// InputError where hessian_mpi does, and RunError where the check fails.
  Network(const run::Options& options, std::function<void()> between, const ranks::Communicator& communicator);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  /// What a file of the matrix would say of itself, but for its rows.
  const file::StoredLayout& layout() const;
  std::int64_t batches() const;
  std::int64_t samples() const;
  int threads() const;
  /// Of a product, against differences.
  const file::CheckFigure& check() const;
  /// Of the narrowest numbers that products are computed with.
  double epsilon() const;
  /// What one takes, measured.
  double seconds_of_product() const;
  /// What the user should look at.
  const std::vector<std::string>& warnings() const;

  /// The elements that this rank has of every vector.
  const Rows& own() const;
  /// Collective. As NetworkProduct has it.
  std::int64_t vectors_at_once() const;
  /// Collective. As NetworkProduct::multiply().
  void multiply(const double* own, std::int64_t count, double* products);

  /// Collective. The loss where the parameters are moved by multiples of a step, which is whole on all ranks; NaN where
  /// there is none.
  std::vector<double> losses_along(const std::vector<double>& step, const std::vector<double>& multiples);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hessian_mpi::products
