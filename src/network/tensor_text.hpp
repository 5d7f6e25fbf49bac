#pragma once
/// What a tensor holds, in words.

#include <torch/types.h>

#include <string>

namespace hessian_mpi::network {

/// How many elements of a mask (bool) are true and where the first few are: "2 of 12 values (at [1, 2], [3, 0])"; empty
/// where none is.
std::string count_and_places(const torch::Tensor& mask);

}  // namespace hessian_mpi::network
