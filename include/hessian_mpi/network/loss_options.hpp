#pragma once
/// What a named loss takes beside output and targets, by PyTorch's names, as users write it: "weight=1,2,0.5".

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hessian_mpi::network {

/// Arguments of torch.nn.functional's losses, with their defaults. Each loss reads those that it has.
struct LossArguments {
  torch::Tensor weight;      ///< float64 of shape [K]; undefined where it is not given
  torch::Tensor pos_weight;  ///< the same
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  double beta = 1;
  double delta = 1;
  // Of several losses with different defaults.
  std::optional<double> eps;
  std::optional<double> margin;
  std::optional<double> p;
  bool swap = false;
  bool log_target = false;
  bool log_input = true;
  bool full = false;
  bool batchmean = false;  ///< reduction=batchmean: a mean over the samples, not over the elements
};

/// The arguments that some words give, each a "NAME=VALUE". known: the names that the loss has. Numbers of a tensor are
/// separated by commas, or stand in a text file, VALUE = "@FILE", separated by commas or white space. Throws InputError
/// naming the word at fault: no name, one that is given twice or that the loss does not have, a value out of its range
/// or of another kind, a file that cannot be read.
LossArguments loss_arguments(const std::string& loss, const std::vector<std::string>& known,
                             const std::vector<std::string>& words);

/// The same arguments give the same text, in whatever order and way they are written: "label_smoothing=0.1
/// weight=1,2,0.5". A long tensor appears as its length and the XXH3 of its numbers. Throws what loss_arguments()
/// throws.
std::string text_of_loss_options(const std::vector<std::string>& words);

}  // namespace hessian_mpi::network
