#pragma once
/// The data set at which the Hessian is taken, in memory.

#include <torch/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::network {

/// Inputs and targets; the first dimension of every tensor is the sample.
struct Data {
  std::vector<torch::Tensor> inputs;          ///< at least one, passed to the model in this order
  std::vector<torch::Tensor> targets;         ///< none only where the loss needs none
  std::vector<std::string> input_names = {};  ///< of the inputs, where the file has them by name; else empty

  std::int64_t samples() const { return inputs.front().size(0); }

  /// The same with the inputs in the order in which a model takes those of these names; as they are where the file does
  /// not name them. Case and punctuation do not count: torch.export drops them. Throws InputError.
  Data in_order_of(const std::vector<std::string>& names) const;

  /// Samples [begin, end) as views.
  Data batch(std::int64_t begin, std::int64_t end) const;
  /// All samples so many times, one copy after the other.
  Data repeated(std::int64_t copies) const;

  /// Floating tensors converted to dtype, integer ones as they are, all of them on the device.
  Data converted(torch::Dtype dtype, torch::Device device = torch::kCPU) const;
};

/// Loads an HDF5 file with `inputs` and `targets` (several of either: a group with datasets 0, 1, ..., or inputs by the
/// names of forward()'s arguments), or a torch.save file with a dict of these keys, where `inputs` may be a dict too,
/// or a tuple (inputs, targets); what the file holds decides, not its name. Throws InputError naming the file: missing,
/// truncated, damaged, no inputs, unequal numbers of samples, no sample at all, NaN among the values, or values that
/// lie in other files, which are not followed.
Data load_data(const std::filesystem::path& file);

}  // namespace hessian_mpi::network
