#pragma once
/// The loss as a sum of terms, so that a data set seen in batches has the value, the gradient and the Hessian of the
/// data set seen at once.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/network/loss_options.hpp"

namespace hessian_mpi::network {

/// What one batch adds to the loss of the data set:
///   Reduction::sum   L = sum over batches of value
///   Reduction::mean  L = sum over batches of multiplicity * value, divided by the sum of their counts
struct LossTerm {
  torch::Tensor value;      ///< scalar of shape [], finite, connected to the parameters
  double multiplicity = 1;  ///< 1 where value is a sum over the batch, the number of samples where it is their mean
  double count = 1;         ///< how many terms the batch holds; 0 where all its targets are ignored
};

/// A loss: (model output, targets, number of samples in the batch) -> term. Targets: None, a tensor, or a tuple of
/// several, which only a loss from a file takes. Throws InputError where output and targets do not fit: wrong shape or
/// dtype, class index out of range, a result that is not a finite floating scalar. Where a sample is at fault the
/// message says "sample k of the batch", k counted from 0.
using Loss = std::function<LossTerm(const c10::IValue& output, const c10::IValue& targets, std::int64_t samples)>;

/// The names that make_loss knows, in the order of the manual.
const std::vector<std::string>& loss_names();

/// The loss `name`, or the module in the file `name` (TorchScript or an exported program), called as loss(output,
/// targets), or as loss(output) for data without targets. Formulas of the named ones: torch.nn.functional with its
/// default arguments but for `options`
/// ("label_smoothing=0.1", see loss_options.hpp), as a sum over the batch. What a mean is divided by is PyTorch's too:
/// cross_entropy and nll count the targets that are not ignored, or add up the weights of their classes; cross_entropy
/// with probabilities as targets counts every position of the output that has classes; mse and l1 with weights add
/// these up; kl_div with batchmean, multi_margin and multilabel_margin count samples; multilabel_soft_margin,
/// cosine_embedding and triplet count vectors; the others count the elements of the output. "output" takes the
/// model's output as the loss of the batch; it and a loss from a file are taken as a mean over the batch's samples for
/// Reduction::mean, as a sum for Reduction::sum, and have no options. A loss from a file is converted to the dtype of
/// the output, its casts kept or not (Model::keep_casts()), and moved to its device. Throws InputError naming the file,
/// the known names, or the option at fault.
Loss make_loss(const std::string& name, Reduction reduction, const std::vector<std::string>& options = {},
               bool keep_casts = false);

/// True for named losses that take targets.
bool wants_targets(const std::string& loss_name);

/// What stands for a loss where there is none: the sum of all numbers that the model returns, each sample being a term.
Loss sum_of_outputs();

/// True for the loss that the model computes itself, from inputs and then targets.
bool model_computes(const std::string& loss_name);

/// True for those whose formula the program knows, and so how their terms are counted.
bool has_known_formula(const std::string& loss_name);

}  // namespace hessian_mpi::network
