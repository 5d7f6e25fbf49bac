#pragma once
/// The data set at which the Hessian is taken, in memory.

#include <torch/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::network {

/// Which tensors are not cut into samples, inputs first, then targets; none where it is empty.
using Whole = std::vector<bool>;

/// Inputs and targets; the first dimension of every tensor is the sample, but of those that are whole.
struct Data {
  std::vector<torch::Tensor> inputs;          ///< at least one, passed to the model in this order
  std::vector<torch::Tensor> targets;         ///< none only where the loss needs none
  std::vector<std::string> input_names = {};  ///< of the inputs, where the file has them by name; else empty

  /// 1 where all are whole.
  std::int64_t samples(const Whole& whole = {}) const;
  /// Whether all but the whole ones have the same first dimension.
  bool has_samples(const Whole& whole) const;
  /// Throws InputError where they have not, or no sample at all. file: for the message.
  void require_samples(const std::string& file, const Whole& whole = {}) const;
  /// Those that are named like the model's arguments, which go on with the targets where the model takes them. Throws
  /// InputError where there is no argument of that name; option: that named it.
  std::vector<bool> named(const std::vector<std::string>& names, const std::vector<std::string>& arguments,
                          const std::string& option) const;

  /// The same with the inputs in the order in which a model takes those of these names; as they are where the file does
  /// not name them. Case and punctuation do not count: torch.export drops them. Throws InputError.
  Data in_order_of(const std::vector<std::string>& names) const;

  /// Samples [begin, end) as views, and what is whole.
  Data batch(std::int64_t begin, std::int64_t end, const Whole& whole = {}) const;
  /// All samples so many times, one copy after the other.
  Data repeated(std::int64_t copies) const;

  /// Floating tensors converted to dtype, integer ones as they are, all of them on the device.
  Data converted(torch::Dtype dtype, torch::Device device = torch::kCPU) const;
};

/// Loads an HDF5 file with `inputs` and `targets` (several of either: a group with datasets 0, 1, ..., or inputs by the
/// names of forward()'s arguments), or a torch.save file with a dict of these keys, where `inputs` may be a dict too,
/// or a tuple (inputs, targets); what the file holds decides, not its name. Throws InputError naming the file: missing,
/// truncated, damaged, no inputs, NaN among the values, or values that lie in other files, which are not followed;
/// unless some may be whole, unequal numbers of samples and no sample at all.
Data load_data(const std::filesystem::path& file, bool some_may_be_whole = false);

}  // namespace hessian_mpi::network
