#pragma once
/// The end of a network, in which positions do not meet any more, as a matrix at each position: with it, passes that
/// begin before it need not go through it. Internal to the factored engine.
///
/// Let x be a tensor through which alone what comes before it enters the loss, and let second derivatives after it not
/// cross places, its rows. A pass that begins before x reaches what comes after by way of dL/dx, with a cotangent v
/// that is the direction of x. All that it has there is linear in v, place by place:
///
///     v d(dL/dx) / dx       with which the pass goes on before x
///     v d(dL/dx) / dz_m     S of the layers m after x
///     (da_m / dx) v         J of their inputs

#include <torch/csrc/autograd/edge.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "hessian_mpi/layers/layer_capture.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"

namespace hessian_mpi::layers {

/// A tensor through which alone some calls enter the loss.
struct NarrowPlace {
  std::vector<std::size_t> calls;
  std::size_t number = 0;  ///< of those that are so, the last before the loss coming last
};

/// What a layer after x has among the numbers of a place.
struct TailLayer {
  std::size_t call = 0;
  std::int64_t first_output = 0;  ///< of S
  std::int64_t outputs = 0;
  std::int64_t first_element = 0;  ///< of J
  std::int64_t elements = 0;       ///< 0 where its input depends on nothing or it has no weight
};

/// Of one batch.
struct Tail {
  NarrowPlace place;
  torch::Tensor delta;  ///< dL/dx, in x's shape
  /// In the processor's memory as in_memory() has them.
  torch::Tensor by_x;       ///< [places, features of the cotangent, features]: d(dL/dx) / dx
  torch::Tensor by_layers;  ///< [places, features of the cotangent, numbers]
  std::vector<TailLayer> layers;

  std::uint64_t bytes() const { return by_x.nbytes() + by_layers.nbytes(); }
  std::int64_t places() const { return by_x.size(0); }
  std::int64_t features() const { return by_x.size(1); }
  const TailLayer* columns_of(std::size_t call) const;
};

/// The longest end of a network that can be taken so, if any; of its numbers only the sizes are known. forward: of a
/// Hessian's batch, to be run back again. crossing: calls with derivatives that cross positions, others do not among
/// each other. samples_last: of all calls. Not collective.
std::optional<Tail> longest_tail(const CapturedForward& forward, const std::vector<std::size_t>& crossing,
                                 const std::vector<bool>& samples_last);

/// The same with its numbers: a backward pass for each feature of x.
Tail with_numbers(const CapturedForward& forward, const Tail& tail);

/// dL/dx of so many copies of the batch, to go on from. In passes that come to it through it the direction v of x is
/// left in `direction`, [copies, places, features], to which they add nothing else; v d(dL/dx)/dx goes to x.
torch::Tensor delta_of_tail(const Tail& tail, const torch::autograd::Edge& x, std::int64_t copies,
                            const torch::Tensor& direction);

/// Rows of a weight sum over their positions; where they are no more than twice as many, directions are summed before
/// they follow the tail: what they find there need not be brought to memory and read again for that.
inline bool sums_before_tail(std::int64_t positions, bool by_input, std::int64_t columns) {
  return positions > 1 && !by_input && columns <= 2 * positions;
}

/// How many rows that have passes of their own are made at once in one batch: one for each copy, or more, where a step
/// goes round a tail, that its matrices are read seldom.
std::int64_t rows_at_once_in_a_batch(const LayerStep& step);

/// Numbers to be read as factors of products, in the processor's memory: a copy, behind which 64 bytes may be read.
torch::Tensor in_memory(const torch::Tensor& numbers, torch::Dtype dtype);

}  // namespace hessian_mpi::layers
