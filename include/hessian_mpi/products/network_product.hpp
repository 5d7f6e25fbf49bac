#pragma once
/// The matrix of a network as what multiplies vectors, without its rows: ranks share the batches of the data, and every
/// rank has some elements of each vector.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "hessian_mpi/engines/batch_product.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::products {

///   NetworkProduct product(problem, memory, world);
///   product.multiply(x, 1, y);               // of x, and of y = A x, the elements of product.own()
class NetworkProduct {
 public:
  /// memory: bytes of a rank for the graphs of its batches; those that find no room are made again for each product.
  /// Problem and communicator must outlive the object, the parameters unchanged but after forget_graphs().
  NetworkProduct(const network::Problem& problem, std::uint64_t memory, const ranks::Communicator& communicator);

  std::int64_t size() const { return problem_.index().size(); }
  /// The elements that this rank has of every vector.
  const Rows& own() const { return own_; }

  /// Collective. The least number of vectors that takes no longer for each than any greater one, but for a little: they
  /// keep all ranks busy, and graphs that find no room are made for several of them.
  std::int64_t vectors_at_once() const;

  /// Collective. own: of `count` vectors, one after the other, this rank's elements; products: of A times each of them
  /// the same. Their bits do not depend on the number of ranks. between: as sum_over_batches() has it. Throws RunError
  /// on all ranks where a product is not finite.
  void multiply(const double* own, std::int64_t count, double* products, const std::function<void()>& between = {});

  /// Before the parameters change: what was kept of them is made again.
  void forget_graphs();

 private:
  const engines::BatchProduct& of_batch(std::int64_t batch);
  template <class Number>
  void multiply_in(const double* own, std::int64_t count, double* products, const std::function<void()>& between);

  const network::Problem& problem_;
  std::uint64_t memory_;
  const ranks::Communicator& communicator_;
  Rows own_;
  std::map<std::int64_t, engines::BatchProduct> kept_;
  std::optional<std::uint64_t> bytes_of_graph_;
  std::optional<engines::BatchProduct> passing_;  // of a batch that is not kept
  std::int64_t passing_batch_ = -1;
  std::tuple<std::vector<float>, std::vector<double>> whole_;  // what is multiplied, in the network's precision
};

/// Collective. Loss and gradient of the whole data set, on all ranks, which share its batches: what network::evaluate()
/// finds, in the same order.
network::LossAndGradient evaluate(const network::Problem& problem, const std::function<void()>& between,
                                  const ranks::Communicator& communicator);

}  // namespace hessian_mpi::products
