#pragma once
/// What a piece of LibTorch's work takes, counted while it runs once: the same on every machine. Internal to the plan
/// of layers.

#include <functional>

namespace hessian_mpi::layers {

struct OperatorCounts {
  double calls = 0;     ///< of operators, also of those that only look at their input in another way
  double numbers = 0;   ///< that operators read and write, products of matrices left out
  double products = 0;  ///< multiplications of these, and of convolutions
};

/// work: on this thread, or on those that LibTorch derives on for it; one at a time.
OperatorCounts counts_of_operators(const std::function<void()>& work);

}  // namespace hessian_mpi::layers
