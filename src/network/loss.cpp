#include "hessian_mpi/network/loss.hpp"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numbers>
#include <optional>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/exception_words.hpp"
#include "hessian_mpi/network/load_model.hpp"
#include "hessian_mpi/network/torch_error.hpp"
#include "tensor_text.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

// "float32 of shape [8, 5]"
std::string description(const Tensor& tensor) {
  return text(c10::getDtypeNames(tensor.scalar_type()).first, " of shape ", tensor.sizes());
}

// Position in the first dimension of the first element at which mask is true; none where there is none.
struct Fault {
  std::int64_t sample;
  double value;
};
std::optional<Fault> first_fault(const Tensor& mask, const Tensor& values) {
  if (!mask.any().item<bool>()) return std::nullopt;
  const std::int64_t element = mask.reshape({-1}).to(torch::kByte).argmax().item<std::int64_t>();
  const std::int64_t per_sample = std::max<std::int64_t>(1, mask.numel() / mask.size(0));
  return Fault{element / per_sample, values.reshape({-1})[element].to(torch::kDouble).item<double>()};
}

std::string kind_of(const c10::IValue& value) {
  if (value.isTuple()) return text("a tuple of ", value.toTupleRef().elements().size());
  if (value.isList()) return text("a list of ", value.toListRef().size());
  if (value.isGenericDict()) return text("a dict of ", value.toGenericDict().size());
  if (value.isTensor()) return text("a tensor that is ", description(value.toTensor()));
  return text("a value of type ", value.type()->repr_str());
}

const Tensor& output_tensor(const std::string& loss, const c10::IValue& output) {
  if (!output.isTensor() || !output.toTensor().is_floating_point()) {
    throw InputError(text("the model returns ", kind_of(output), ", and the loss '", loss,
                          "' wants one floating-point tensor: use a scripted loss (--loss FILE), which is called as "
                          "loss(output, targets), or --loss output"));
  }
  const Tensor& tensor = output.toTensor();
  if (tensor.dim() == 0) {
    throw InputError(text("the model returns a scalar, and the loss '", loss,
                          "' wants one value or more per sample; if "
                          "the scalar is the loss, use --loss output"));
  }
  return tensor;
}

Tensor target_tensor(const std::string& loss, const c10::IValue& targets) {
  if (targets.isTensor()) return targets.toTensor();
  if (targets.isNone()) throw InputError(text("the loss '", loss, "' wants targets, and the data has none"));
  throw InputError(text("the data has several targets, and the loss '", loss,
                        "' wants one: use a scripted loss (--loss FILE), which is called as loss(output, targets) with "
                        "a tuple of them, or --loss output"));
}

// "(-1, 3, 2)": a shape whose first dimension is the sample, for any number of samples.
std::string shape_of_samples(c10::IntArrayRef shape, const char* samples) {
  std::string dimensions = samples;
  for (const auto extent : shape.slice(1)) dimensions += text(", ", extent);
  return text('(', dimensions, shape.size() == 1 ? ",)" : ")");
}

// How to write targets that have the numbers, but not the shape that is wanted; empty where they have not.
std::string way_to_shape(const Tensor& targets, c10::IntArrayRef shape) {
  if (targets.numel() == c10::multiply_integers(shape)) {
    return text("; write them as targets.reshape", shape_of_samples(shape, "-1"));
  }
  if (at::is_expandable_to(targets.sizes(), shape)) {
    return text("; if each of them is meant for several numbers, write them as np.broadcast_to(targets, ",
                shape_of_samples(shape, "len(targets)"), ")");
  }
  return {};
}

void require_same_shape(const std::string& loss, const Tensor& output, const Tensor& targets) {
  if (targets.sizes() == output.sizes()) return;
  throw InputError(text("targets are ", description(targets), "; ", loss,
                        " wants them in the shape of the model's output, ", output.sizes(),
                        way_to_shape(targets, output.sizes())));
}

// What may be meant by targets that are no indices of these classes.
std::string way_to_classes(const std::string& loss, const Tensor& output, const Tensor& targets,
                           c10::IntArrayRef index_shape) {
  const bool integers = c10::isIntegralType(targets.scalar_type(), /*includeBool=*/true);
  const auto sizes = targets.sizes();
  if (!integers && sizes == index_shape) return "; write them as integers";
  if (integers && sizes == output.sizes() && loss == "cross_entropy") {
    return "; if they are probabilities, such as one-hot vectors, write them as floating-point numbers";
  }
  const auto classes_last = output.sizes().slice(0, static_cast<std::size_t>(output.dim() - 1));
  if (integers && output.dim() > 2 && sizes == classes_last && sizes != index_shape) {
    return "; as in PyTorch, classes are the second dimension of the output: have the model return "
           "output.movedim(-1, 1)";
  }
  return integers ? way_to_shape(targets, index_shape) : "";
}

[[noreturn]] void throw_class_mismatch(const std::string& loss, const Tensor& output, const Tensor& targets,
                                       const std::vector<std::int64_t>& index_shape) {
  const std::string probabilities =
      loss == "cross_entropy" ? text(" or probabilities of shape ", output.sizes()) : std::string{};
  throw InputError(text("targets are ", description(targets), "; ", loss, " wants integer class indices of shape ",
                        c10::IntArrayRef(index_shape), probabilities,
                        way_to_classes(loss, output, targets, index_shape)));
}

// Targets as int64 indices of shape [B, d1, ...], checked against an output of shape [B, C, d1, ...].
Tensor class_indices(const std::string& loss, const Tensor& output, const Tensor& targets,
                     std::optional<std::int64_t> ignored) {
  auto index_shape = output.sizes().vec();
  index_shape.erase(index_shape.begin() + 1);
  if (!c10::isIntegralType(targets.scalar_type(), /*includeBool=*/true) || targets.sizes() != index_shape) {
    throw_class_mismatch(loss, output, targets, index_shape);
  }
  const Tensor indices = targets.to(torch::kLong);
  const std::int64_t classes = output.size(1);
  Tensor outside = indices.lt(0).logical_or(indices.ge(classes));
  if (ignored) outside = outside.logical_and(indices.ne(*ignored));
  if (const auto fault = first_fault(outside, indices)) {
    throw InputError(text("sample ", fault->sample, " of the batch has the class index ",
                          static_cast<std::int64_t>(fault->value), "; the model's output of shape ", output.sizes(),
                          " has ", classes, " classes, so that indices go from 0 to ", classes - 1,
                          ignored ? text(" (", *ignored, " is ignored)") : ""));
  }
  return indices;
}

void require_classes(const std::string& loss, const Tensor& output) {
  if (output.dim() >= 2 && output.size(1) > 0) return;
  throw InputError(text("the model returns ", description(output), "; ", loss,
                        " wants scores of shape [samples, classes] or [samples, classes, ...]"));
}

// In the dtype of the output; none where no weights are given.
std::optional<Tensor> class_weights(const LossArguments& arguments, const Tensor& output) {
  const auto& weight = arguments.weight;
  if (!weight.defined()) return std::nullopt;
  if (weight.numel() != output.size(1)) {
    throw InputError(text("--loss-option weight has ", weight.numel(), " numbers, and the model's output of shape ",
                          output.sizes(), " has ", output.size(1), " classes: give a number for each"));
  }
  return weight.to(output.device(), output.scalar_type());
}

// What a mean is divided by: how many indices are not ignored, or the sum of their classes' weights.
double weight_of(const Tensor& indices, const LossArguments& arguments) {
  const Tensor kept = indices.ne(arguments.ignore_index);
  if (!arguments.weight.defined()) return kept.sum().item<double>();
  return arguments.weight.index_select(0, indices.masked_select(kept).cpu()).sum().item<double>();
}

LossTerm cross_entropy_of_probabilities(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  // PyTorch's own rule.
  if (arguments.ignore_index >= 0) {
    throw InputError(text("--loss-option ignore_index=", arguments.ignore_index,
                          ": the targets are probabilities, not class indices, so that none can be ignored"));
  }
  const auto value = at::cross_entropy_loss(output, targets.to(output.scalar_type()), class_weights(arguments, output),
                                            at::Reduction::Sum, arguments.ignore_index, arguments.label_smoothing);
  return {value, 1, static_cast<double>(output.numel() / output.size(1))};
}

LossTerm cross_entropy(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  require_classes("cross_entropy", output);
  if (targets.is_floating_point() && targets.sizes() == output.sizes()) {
    return cross_entropy_of_probabilities(output, targets, arguments);
  }
  const Tensor indices = class_indices("cross_entropy", output, targets, arguments.ignore_index);
  const auto value = at::cross_entropy_loss(output, indices, class_weights(arguments, output), at::Reduction::Sum,
                                            arguments.ignore_index, arguments.label_smoothing);
  return {value, 1, weight_of(indices, arguments)};
}

LossTerm nll(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  require_classes("nll", output);
  const Tensor indices = class_indices("nll", output, targets, arguments.ignore_index);
  const auto value =
      at::nll_loss_nd(output, indices, class_weights(arguments, output), at::Reduction::Sum, arguments.ignore_index);
  return {value, 1, weight_of(indices, arguments)};
}

// A weight for each place in the last dimension, or one for all, as PyTorch has it with a tensor of one dimension; in
// the shape and dtype of the output. None where it is not given.
std::optional<Tensor> weights_by_place(const char* name, const Tensor& weight, const Tensor& output) {
  if (!weight.defined()) return std::nullopt;
  const auto places = output.dim() > 1 ? output.size(-1) : 1;
  if (weight.numel() != 1 && weight.numel() != places) {
    throw InputError(text("--loss-option ", name, " has ", weight.numel(), " numbers, and the model's output of shape ",
                          output.sizes(), " has ", places, " in its last dimension: give a number for each, or one",
                          output.dim() > 1 ? "" : " (weights of samples need a scripted loss)"));
  }
  return weight.to(output.device(), output.scalar_type()).expand_as(output);
}

double number_of(const Tensor& output) {
  return static_cast<double>(output.numel());
}

// Terms that are weighted before they are added; a mean is divided by the sum of the weights.
LossTerm weighted(const Tensor& terms, const Tensor& weight) {
  return {(terms * weight).sum(), 1, weight.sum(torch::kDouble).item<double>()};
}

LossTerm mse(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  if (const auto weight = weights_by_place("weight", arguments.weight, output)) {
    return weighted(at::mse_loss(output, targets, at::Reduction::None), *weight);
  }
  return {at::mse_loss(output, targets, at::Reduction::Sum), 1, number_of(output)};
}

LossTerm l1(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  if (const auto weight = weights_by_place("weight", arguments.weight, output)) {
    return weighted(at::l1_loss(output, targets, at::Reduction::None), *weight);
  }
  return {at::l1_loss(output, targets, at::Reduction::Sum), 1, number_of(output)};
}

LossTerm smooth_l1(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  const auto sum = at::Reduction::Sum;
  const auto value = arguments.beta == 0 ? at::l1_loss(output, targets, sum)
                                         : at::smooth_l1_loss(output, targets, sum, arguments.beta);
  return {value, 1, number_of(output)};
}

LossTerm huber(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  if (const auto weight = weights_by_place("weight", arguments.weight, output)) {
    const auto terms = at::huber_loss(output, targets, at::Reduction::None, arguments.delta) * *weight;
    return {terms.sum(), 1, number_of(output)};  // unlike mse and l1, whose mean is divided by the weights
  }
  return {at::huber_loss(output, targets, at::Reduction::Sum, arguments.delta), 1, number_of(output)};
}

void require_probabilities(const char* whose, const Tensor& values, const char* remedy) {
  const Tensor outside = values.detach().ge(0).logical_and(values.detach().le(1)).logical_not();
  if (const auto fault = first_fault(outside, values.detach())) {
    throw InputError(text("sample ", fault->sample, " of the batch has ", fault->value, " in ", whose,
                          "; bce wants values from 0 to 1", remedy));
  }
}

LossTerm bce(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  require_probabilities("the model's output", output, " (bce_with_logits takes any)");
  require_probabilities("its targets", targets, "");
  const auto weight = weights_by_place("weight", arguments.weight, output);
  return {at::binary_cross_entropy(output, targets, weight, at::Reduction::Sum), 1, number_of(output)};
}

LossTerm bce_with_logits(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  const auto weight = weights_by_place("weight", arguments.weight, output);
  const auto pos_weight = weights_by_place("pos_weight", arguments.pos_weight, output);
  return {at::binary_cross_entropy_with_logits(output, targets, weight, pos_weight, at::Reduction::Sum), 1,
          number_of(output)};
}

LossTerm kl_div(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  return {at::kl_div(output, targets, at::Reduction::Sum, arguments.log_target), 1,
          arguments.batchmean ? static_cast<double>(output.size(0)) : number_of(output)};
}

LossTerm poisson_nll(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  return {at::poisson_nll_loss(output, targets, arguments.log_input, arguments.full, arguments.eps.value_or(1e-8),
                               at::Reduction::Sum),
          1, number_of(output)};
}

// Mean of positions, each a mean over its classes.
LossTerm multilabel_soft_margin(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  const Tensor terms = targets * at::log_sigmoid(output) + (1 - targets) * at::log_sigmoid(-output);
  const auto weight = weights_by_place("weight", arguments.weight, output);
  const auto classes = static_cast<double>(output.size(-1));
  return {(weight ? terms * *weight : terms).sum() / -classes, 1, number_of(output) / classes};
}

LossTerm soft_margin(const Tensor& output, const Tensor& targets, const LossArguments&) {
  return {at::soft_margin_loss(output, targets, at::Reduction::Sum), 1, number_of(output)};
}

LossTerm hinge_embedding(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  return {at::hinge_embedding_loss(output, targets, arguments.margin.value_or(1), at::Reduction::Sum), 1,
          number_of(output)};
}

void require_scores(const std::string& loss, const Tensor& output) {
  if (output.dim() == 2 && output.size(1) > 0) return;
  throw InputError(
      text("the model returns ", description(output), "; ", loss, " wants scores of shape [samples, classes]"));
}

LossTerm multi_margin(const Tensor& output, const Tensor& targets, const LossArguments& arguments) {
  require_scores("multi_margin", output);
  const Tensor indices = class_indices("multi_margin", output, targets, std::nullopt);
  return {at::multi_margin_loss(output, indices, arguments.p.value_or(1), arguments.margin.value_or(1),
                                class_weights(arguments, output), at::Reduction::Sum),
          1, static_cast<double>(output.size(0))};
}

// Targets are the classes of a sample, then -1.
LossTerm multilabel_margin(const Tensor& output, const Tensor& targets, const LossArguments&) {
  require_scores("multilabel_margin", output);
  require_same_shape("multilabel_margin", output, targets);
  if (!c10::isIntegralType(targets.scalar_type(), /*includeBool=*/false)) {
    throw InputError(text("targets are ", description(targets),
                          "; multilabel_margin wants the integer indices of a sample's classes, then -1"));
  }
  const Tensor indices = targets.to(torch::kLong);
  const Tensor outside = indices.lt(-1).logical_or(indices.ge(output.size(1)));
  if (const auto fault = first_fault(outside, indices)) {
    throw InputError(text("sample ", fault->sample, " of the batch has the class index ",
                          static_cast<std::int64_t>(fault->value), "; indices go from 0 to ", output.size(1) - 1,
                          ", and -1 ends those of a sample"));
  }
  return {at::multilabel_margin_loss(output, indices, at::Reduction::Sum), 1, static_cast<double>(output.size(0))};
}

struct NamedLoss {
  const char* name;
  // Either of classes, or of targets that are equal to the output in shape and dtype.
  bool of_classes;
  LossTerm (*term)(const Tensor& output, const Tensor& targets, const LossArguments& arguments);
  std::array<const char*, 4> options;
};

constexpr NamedLoss named_losses[] = {
    {"cross_entropy", true, cross_entropy, {"weight", "ignore_index", "label_smoothing"}},
    {"nll", true, nll, {"weight", "ignore_index"}},
    {"mse", false, mse, {"weight"}},
    {"l1", false, l1, {"weight"}},
    {"smooth_l1", false, smooth_l1, {"beta"}},
    {"huber", false, huber, {"delta", "weight"}},
    {"bce", false, bce, {"weight"}},
    {"bce_with_logits", false, bce_with_logits, {"weight", "pos_weight"}},
    {"kl_div", false, kl_div, {"log_target", "reduction"}},
    {"poisson_nll", false, poisson_nll, {"log_input", "full", "eps"}},
    {"soft_margin", false, soft_margin, {}},
    {"hinge_embedding", false, hinge_embedding, {"margin"}},
    {"multi_margin", true, multi_margin, {"p", "margin", "weight"}},
    {"multilabel_margin", true, multilabel_margin, {}},
    {"multilabel_soft_margin", false, multilabel_soft_margin, {"weight"}},
};

// --- losses of several outputs

using Outputs = std::vector<Tensor>;

// As PyTorch has it: a variance below eps counts as eps, and its derivative is that of the formula there.
LossTerm gaussian_nll(const Outputs& outputs, const Tensor& targets, const LossArguments& arguments) {
  const Tensor& mean = outputs[0];
  Tensor variance = outputs[1];
  if (variance.dim() + 1 == mean.dim()) variance = variance.unsqueeze(-1);
  if (variance.dim() != mean.dim() || !at::is_expandable_to(variance.sizes(), mean.sizes())) {
    throw InputError(text("the model returns a mean that is ", description(mean), " and a variance that is ",
                          description(outputs[1]), "; gaussian_nll wants one for each, or one for the last dimension"));
  }
  if (const auto fault = first_fault(variance.detach().lt(0), variance.detach())) {
    throw InputError(text("sample ", fault->sample, " of the batch has the variance ", fault->value,
                          "; gaussian_nll wants none below 0: have the model return softplus or exp of it"));
  }
  variance = variance.clone();
  {
    const torch::NoGradGuard value_alone;
    variance.clamp_min_(arguments.eps.value_or(1e-6));
  }
  const Tensor terms = 0.5 * (variance.log() + (mean - targets).square() / variance);
  const double constant = arguments.full ? 0.5 * std::log(2 * std::numbers::pi) : 0;
  return {terms.sum() + constant * number_of(mean), 1, number_of(mean)};
}

LossTerm margin_ranking(const Outputs& outputs, const Tensor& targets, const LossArguments& arguments) {
  return {at::margin_ranking_loss(outputs[0], outputs[1], targets, arguments.margin.value_or(0), at::Reduction::Sum), 1,
          number_of(targets)};
}

LossTerm cosine_embedding(const Outputs& outputs, const Tensor& targets, const LossArguments& arguments) {
  return {at::cosine_embedding_loss(outputs[0], outputs[1], targets, arguments.margin.value_or(0), at::Reduction::Sum),
          1, number_of(targets)};
}

LossTerm triplet(const Outputs& outputs, const Tensor&, const LossArguments& arguments) {
  const auto& shape = outputs[0].sizes();
  return {
      at::triplet_margin_loss(outputs[0], outputs[1], outputs[2], arguments.margin.value_or(1), arguments.p.value_or(2),
                              arguments.eps.value_or(1e-6), arguments.swap, at::Reduction::Sum),
      1, static_cast<double>(outputs[0].numel() / shape.back())};
}

enum class Targets { none, like_output, one_per_sample };

struct LossOfSeveral {
  const char* name;
  std::size_t count;
  const char* outputs;  // for messages
  bool alike;           // all outputs have one shape
  Targets targets;
  LossTerm (*term)(const Outputs& outputs, const Tensor& targets, const LossArguments& arguments);
  std::array<const char*, 4> options;
};

constexpr LossOfSeveral losses_of_several[] = {
    {"gaussian_nll", 2, "mean and variance", false, Targets::like_output, gaussian_nll, {"full", "eps"}},
    {"margin_ranking", 2, "two tensors of scores", true, Targets::like_output, margin_ranking, {"margin"}},
    {"cosine_embedding", 2, "two tensors of vectors", true, Targets::one_per_sample, cosine_embedding, {"margin"}},
    {"triplet",
     3,
     "anchor, positive and negative vectors",
     true,
     Targets::none,
     triplet,
     {"margin", "p", "eps", "swap"}},
};

Outputs output_tensors(const LossOfSeveral& loss, const c10::IValue& output) {
  std::vector<c10::IValue> parts;
  if (output.isTuple()) parts = output.toTupleRef().elements().vec();
  if (output.isTensorList() || output.isList()) parts = output.toList().vec();
  Outputs tensors;
  for (const auto& part : parts) {
    if (part.isTensor() && part.toTensor().is_floating_point() && part.toTensor().dim() > 0) {
      tensors.push_back(part.toTensor());
    }
  }
  if (parts.size() != loss.count || tensors.size() != loss.count) {
    throw InputError(text("the model returns ", kind_of(output), ", and the loss '", loss.name, "' wants a tuple of ",
                          loss.count, " floating-point tensors: ", loss.outputs));
  }
  const auto wanted = loss.targets == Targets::like_output ? 1 : 2;
  for (const auto& tensor : tensors) {
    if (loss.alike && (tensor.sizes() != tensors[0].sizes() || tensor.dim() < wanted)) {
      throw InputError(text("the model returns a tensor that is ", description(tensors[0]), " and one that is ",
                            description(tensor), "; ", loss.name, " wants ", loss.outputs, " of one shape",
                            wanted > 1 ? ", [samples, numbers]" : ""));
    }
  }
  return tensors;
}

Tensor targets_of(const LossOfSeveral& loss, const Tensor& output, const c10::IValue& targets) {
  if (loss.targets == Targets::none) {
    if (targets.isNone()) return {};
    throw InputError(text("the data has targets, and the loss '", loss.name, "' takes none: leave them out"));
  }
  const Tensor given = target_tensor(loss.name, targets);
  const auto shape = loss.targets == Targets::like_output ? output.sizes() : output.sizes().slice(0, output.dim() - 1);
  if (given.sizes() != shape) {
    throw InputError(text("targets are ", description(given), "; ", loss.name, " wants them of shape ", shape,
                          way_to_shape(given, shape)));
  }
  return given.to(output.scalar_type());
}

constexpr const char* models_own_loss = "output";

LossTerm evaluate(const NamedLoss& loss, const LossArguments& arguments, const Tensor& output, const Tensor& targets) {
  if (loss.of_classes) return loss.term(output, targets, arguments);
  require_same_shape(loss.name, output, targets);
  if (targets.is_complex()) {
    throw InputError(text("targets are ", description(targets), "; ", loss.name, " wants real numbers"));
  }
  return loss.term(output, targets.to(output.scalar_type()), arguments);
}

void require_finite(const std::string& loss, const Tensor& value) {
  const double number = value.detach().to(torch::kDouble).item<double>();
  if (std::isfinite(number)) return;
  throw InputError(text("the loss '", loss, "' of a batch is ", number, ", not a finite number"));
}

// Says which sample it is where the model's output is at fault already.
void require_finite(const std::string& loss, const Tensor& value, const Tensor& output) {
  if (const auto fault = first_fault(output.detach().isfinite().logical_not(), output.detach());
      fault && !std::isfinite(value.detach().to(torch::kDouble).item<double>())) {
    throw InputError(text("the model's output for sample ", fault->sample, " of the batch contains ", fault->value,
                          ", NaN or infinity in ", count_and_places(output.detach().isfinite().logical_not()),
                          ", and so the loss '", loss, "' is not a finite number"));
  }
  require_finite(loss, value);
}

Loss named_loss(const NamedLoss& loss, const LossArguments& arguments) {
  return [loss, arguments](const c10::IValue& output, const c10::IValue& targets, std::int64_t) {
    const Tensor& values = output_tensor(loss.name, output);
    LossTerm term = evaluate(loss, arguments, values, target_tensor(loss.name, targets));
    require_finite(loss.name, term.value, values);
    return term;
  };
}

Loss loss_of_several(const LossOfSeveral& loss, const LossArguments& arguments) {
  return [loss, arguments](const c10::IValue& output, const c10::IValue& targets, std::int64_t) {
    const auto outputs = output_tensors(loss, output);
    LossTerm term = loss.term(outputs, targets_of(loss, outputs[0], targets), arguments);
    for (const auto& values : outputs) require_finite(loss.name, term.value, values);
    return term;
  };
}

// A term of a loss whose formula is not known: what it returns is taken as the reduction that is wanted.
LossTerm opaque_term(const std::string& loss, const c10::IValue& result, Reduction reduction, std::int64_t samples) {
  if (!result.isTensor() || !result.toTensor().is_floating_point() || result.toTensor().numel() != 1) {
    throw InputError(text("the loss '", loss, "' is ", kind_of(result),
                          "; it has to be a scalar: one floating-point number in a tensor"));
  }
  const Tensor value = result.toTensor().reshape({});
  require_finite(loss, value);
  if (reduction == Reduction::sum) return {value};
  return {value, static_cast<double>(samples), static_cast<double>(samples)};
}

std::optional<Tensor> floating_tensor_in(const c10::IValue& value) {
  std::optional<Tensor> found;
  value.visit([&](const c10::IValue& part) {
    if (!found && part.isTensor() && part.toTensor().is_floating_point()) found = part.toTensor();
    return found.has_value();
  });
  return found;
}

void append_tensors(const c10::IValue& value, std::vector<c10::IValue>& to) {
  if (value.isTensor()) {
    to.push_back(value);
  } else if (value.isTuple()) {
    for (const auto& part : value.toTupleRef().elements()) append_tensors(part, to);
  } else if (value.isList()) {
    for (const auto& part : value.toListRef()) append_tensors(part, to);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) append_tensors(entry.value(), to);
  }
}

// An exported program takes what is in tuples and dicts one by one.
std::vector<c10::IValue> arguments_for(const Model& module, const c10::IValue& output, const c10::IValue& targets) {
  std::vector<c10::IValue> arguments;
  if (module.format() == "exported program") {
    append_tensors(output, arguments);
    append_tensors(targets, arguments);
    return arguments;
  }
  arguments.push_back(output);
  if (!targets.isNone()) arguments.push_back(targets);
  return arguments;
}

Loss loss_from_file(const std::string& file, Reduction reduction, bool keep_casts) {
  const std::shared_ptr<Model> module = load_loss(file);
  module->keep_casts(keep_casts);
  const auto converted_to = std::make_shared<std::optional<torch::TensorOptions>>();
  return [module, converted_to, file, reduction](const c10::IValue& output, const c10::IValue& targets,
                                                 std::int64_t samples) {
    c10::IValue result;
    try {
      // Weights of classes and the like.
      if (const auto like = floating_tensor_in(output)) {
        const auto wanted = torch::dtype(like->scalar_type()).device(like->device());
        const auto& now = *converted_to;
        if (!now || now->dtype() != wanted.dtype() || now->device() != wanted.device()) {
          module->convert(like->scalar_type(), like->device());
        }
        *converted_to = wanted;
      }
      result = module->forward(arguments_for(*module, output, targets));
    } catch (const std::exception& error) {
      if (is_out_of_gpu_memory(error.what())) throw;
      throw InputError(text("the loss '", file, "' failed: ", message_of(error)));
    }
    return opaque_term(file, result, reduction, samples);
  };
}

template <class Named>
LossArguments arguments_of(const Named& loss, Reduction reduction, const std::vector<std::string>& options) {
  std::vector<std::string> known;
  for (const auto* option : loss.options) {
    if (option != nullptr) known.emplace_back(option);
  }
  auto arguments = loss_arguments(loss.name, known, options);
  if (arguments.batchmean && reduction == Reduction::sum) {
    throw InputError("--loss-option reduction=batchmean is a mean over the samples, and --reduction sum is none");
  }
  return arguments;
}

}  // namespace

const std::vector<std::string>& loss_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const auto& loss : named_losses) result.emplace_back(loss.name);
    for (const auto& loss : losses_of_several) result.emplace_back(loss.name);
    result.emplace_back(models_own_loss);
    return result;
  }();
  return names;
}

Loss make_loss(const std::string& name, Reduction reduction, const std::vector<std::string>& options, bool keep_casts) {
  for (const auto& loss : named_losses) {
    if (name == loss.name) return named_loss(loss, arguments_of(loss, reduction, options));
  }
  for (const auto& loss : losses_of_several) {
    if (name == loss.name) return loss_of_several(loss, arguments_of(loss, reduction, options));
  }
  std::error_code ignored;
  const bool is_file = !model_computes(name) && std::filesystem::is_regular_file(name, ignored);
  if (!model_computes(name) && !is_file) {
    throw InputError(text("there is no loss '", name, "', neither by this name nor as a file; known are ",
                          joined(loss_names(), ", "), ", or a file with a scripted or exported module"));
  }
  if (!options.empty()) {
    throw InputError(text("--loss-option '", options.front(), "': the loss '", name, "' takes none, since ",
                          is_file ? "the module in it" : "the model", " computes it: write the value there"));
  }
  if (is_file) return loss_from_file(name, reduction, keep_casts);
  return [name, reduction](const c10::IValue& output, const c10::IValue&, std::int64_t samples) {
    return opaque_term(name, output, reduction, samples);
  };
}

bool wants_targets(const std::string& loss_name) {
  const auto has_name = [&](const auto& loss) { return loss_name == loss.name; };
  const auto* several = std::find_if(std::begin(losses_of_several), std::end(losses_of_several), has_name);
  if (several != std::end(losses_of_several)) return several->targets != Targets::none;
  return std::any_of(std::begin(named_losses), std::end(named_losses), has_name);
}

Loss sum_of_outputs() {
  return [](const c10::IValue& output, const c10::IValue&, std::int64_t samples) {
    std::vector<c10::IValue> tensors;
    append_tensors(output, tensors);
    Tensor sum;
    for (const auto& tensor : tensors) {
      if (!tensor.toTensor().is_floating_point()) continue;
      sum = sum.defined() ? sum + tensor.toTensor().sum() : tensor.toTensor().sum();
    }
    if (!sum.defined()) throw InputError(text("the model returns ", kind_of(output), ", and no floating-point tensor"));
    require_finite("sum of outputs", sum);
    return LossTerm{sum, 1, static_cast<double>(samples)};
  };
}

bool model_computes(const std::string& loss_name) {
  return loss_name == models_own_loss;
}

bool has_known_formula(const std::string& loss_name) {
  const auto& names = loss_names();
  return !model_computes(loss_name) && std::find(names.begin(), names.end(), loss_name) != names.end();
}

}  // namespace hessian_mpi::network
