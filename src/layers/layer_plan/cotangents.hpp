#pragma once
/// What backward passes start with that test where derivatives reach. Internal to the plans of layers.

#include <torch/types.h>

#include <cstdint>
#include <functional>

namespace hessian_mpi::layers {

/// Numbers from 0.5 to 1.5 in the shape of a tensor, without a pattern that a network could share, the same in every
/// call: LibTorch's generator, which networks draw from, is left alone.
torch::Tensor patternless_like(const torch::Tensor& tensor);

/// The same for many calls: what was drawn for the largest tensor is kept.
class Patternless {
 public:
  torch::Tensor like(const torch::Tensor& tensor);

 private:
  torch::Tensor numbers_;
};

/// Runs step for sets of numbers below count, such that for any two of them one set has the first and not the second:
/// the fewest that do so, 23 for a million.
/// step gets a function from numbers (int64) to whether they are in the set.
void for_separating_sets(
    std::int64_t count,
    const std::function<void(const std::function<torch::Tensor(const torch::Tensor&)>& contains)>& step);

}  // namespace hessian_mpi::layers
