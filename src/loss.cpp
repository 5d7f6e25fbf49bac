#include "hessian_mpi/loss.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/tensor_text.hpp"
#include "hessian_mpi/torch_error.hpp"
#include "hessian_mpi/torchscript_model.hpp"

namespace hessian_mpi {
namespace {

using torch::Tensor;

constexpr std::int64_t ignored_index = -100;  // torch.nn.functional's default

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

void require_same_shape(const std::string& loss, const Tensor& output, const Tensor& targets) {
  if (targets.sizes() == output.sizes()) return;
  throw InputError(text("targets are ", description(targets), "; ", loss,
                        " wants them in the shape of the model's output, ", output.sizes()));
}

[[noreturn]] void throw_class_mismatch(const std::string& loss, const Tensor& output, const Tensor& targets,
                                       const std::vector<std::int64_t>& index_shape) {
  const std::string probabilities =
      loss == "cross_entropy" ? text(" or probabilities of shape ", output.sizes()) : std::string{};
  throw InputError(text("targets are ", description(targets), "; ", loss, " wants integer class indices of shape ",
                        c10::IntArrayRef(index_shape), probabilities));
}

// Targets as int64 indices of shape [B, d1, ...], checked against an output of shape [B, C, d1, ...].
Tensor class_indices(const std::string& loss, const Tensor& output, const Tensor& targets) {
  auto index_shape = output.sizes().vec();
  index_shape.erase(index_shape.begin() + 1);
  if (!c10::isIntegralType(targets.scalar_type(), /*includeBool=*/true) || targets.sizes() != index_shape) {
    throw_class_mismatch(loss, output, targets, index_shape);
  }
  const Tensor indices = targets.to(torch::kLong);
  const std::int64_t classes = output.size(1);
  const Tensor outside = indices.lt(0).logical_or(indices.ge(classes)).logical_and(indices.ne(ignored_index));
  if (const auto fault = first_fault(outside, indices)) {
    throw InputError(text("sample ", fault->sample, " of the batch has the class index ",
                          static_cast<std::int64_t>(fault->value), "; the model's output of shape ", output.sizes(),
                          " has ", classes, " classes, so that indices go from 0 to ", classes - 1, " (", ignored_index,
                          " is ignored)"));
  }
  return indices;
}

void require_classes(const std::string& loss, const Tensor& output) {
  if (output.dim() >= 2 && output.size(1) > 0) return;
  throw InputError(text("the model returns ", description(output), "; ", loss,
                        " wants scores of shape [samples, classes] or [samples, classes, ...]"));
}

double number_not_ignored(const Tensor& indices) {
  return indices.ne(ignored_index).sum().item<double>();
}

LossTerm cross_entropy(const Tensor& output, const Tensor& targets) {
  require_classes("cross_entropy", output);
  if (targets.is_floating_point() && targets.sizes() == output.sizes()) {
    const Tensor probabilities = targets.to(output.scalar_type());
    return {at::cross_entropy_loss(output, probabilities, {}, at::Reduction::Sum), 1,
            static_cast<double>(output.numel() / output.size(1))};
  }
  const Tensor indices = class_indices("cross_entropy", output, targets);
  return {at::cross_entropy_loss(output, indices, {}, at::Reduction::Sum, ignored_index), 1,
          number_not_ignored(indices)};
}

LossTerm nll(const Tensor& output, const Tensor& targets) {
  require_classes("nll", output);
  const Tensor indices = class_indices("nll", output, targets);
  return {at::nll_loss_nd(output, indices, {}, at::Reduction::Sum, ignored_index), 1, number_not_ignored(indices)};
}

Tensor sum_mse(const Tensor& output, const Tensor& targets) {
  return at::mse_loss(output, targets, at::Reduction::Sum);
}

Tensor sum_l1(const Tensor& output, const Tensor& targets) {
  return at::l1_loss(output, targets, at::Reduction::Sum);
}

Tensor sum_smooth_l1(const Tensor& output, const Tensor& targets) {
  return at::smooth_l1_loss(output, targets, at::Reduction::Sum, /*beta=*/1.0);
}

Tensor sum_huber(const Tensor& output, const Tensor& targets) {
  return at::huber_loss(output, targets, at::Reduction::Sum, /*delta=*/1.0);
}

void require_probabilities(const char* whose, const Tensor& values, const char* remedy) {
  const Tensor outside = values.detach().ge(0).logical_and(values.detach().le(1)).logical_not();
  if (const auto fault = first_fault(outside, values.detach())) {
    throw InputError(text("sample ", fault->sample, " of the batch has ", fault->value, " in ", whose,
                          "; bce wants values from 0 to 1", remedy));
  }
}

Tensor sum_bce(const Tensor& output, const Tensor& targets) {
  require_probabilities("the model's output", output, " (bce_with_logits takes any)");
  require_probabilities("its targets", targets, "");
  return at::binary_cross_entropy(output, targets, {}, at::Reduction::Sum);
}

Tensor sum_bce_with_logits(const Tensor& output, const Tensor& targets) {
  return at::binary_cross_entropy_with_logits(output, targets, {}, {}, at::Reduction::Sum);
}

Tensor sum_kl_div(const Tensor& output, const Tensor& targets) {
  return at::kl_div(output, targets, at::Reduction::Sum, /*log_target=*/false);
}

Tensor sum_poisson_nll(const Tensor& output, const Tensor& targets) {
  return at::poisson_nll_loss(output, targets, /*log_input=*/true, /*full=*/false, /*eps=*/1e-8, at::Reduction::Sum);
}

struct NamedLoss {
  const char* name;
  // One of the two: for classes, or with one term per element of an output to which the targets are equal in shape and
  // dtype.
  LossTerm (*by_class)(const Tensor& output, const Tensor& targets);
  Tensor (*by_element)(const Tensor& output, const Tensor& targets);
};

constexpr NamedLoss named_losses[] = {
    {"cross_entropy", cross_entropy, nullptr},
    {"nll", nll, nullptr},
    {"mse", nullptr, sum_mse},
    {"l1", nullptr, sum_l1},
    {"smooth_l1", nullptr, sum_smooth_l1},
    {"huber", nullptr, sum_huber},
    {"bce", nullptr, sum_bce},
    {"bce_with_logits", nullptr, sum_bce_with_logits},
    {"kl_div", nullptr, sum_kl_div},
    {"poisson_nll", nullptr, sum_poisson_nll},
};

constexpr const char* models_own_loss = "output";

LossTerm evaluate(const NamedLoss& loss, const Tensor& output, const Tensor& targets) {
  if (loss.by_class != nullptr) return loss.by_class(output, targets);
  require_same_shape(loss.name, output, targets);
  if (targets.is_complex()) {
    throw InputError(text("targets are ", description(targets), "; ", loss.name, " wants real numbers"));
  }
  return {loss.by_element(output, targets.to(output.scalar_type())), 1, static_cast<double>(output.numel())};
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

Loss named_loss(const NamedLoss& loss) {
  return [loss](const c10::IValue& output, const std::optional<Tensor>& targets, std::int64_t) {
    const Tensor& values = output_tensor(loss.name, output);
    if (!targets) throw InputError(text("the loss '", loss.name, "' wants targets, and the data has none"));
    LossTerm term = evaluate(loss, values, *targets);
    require_finite(loss.name, term.value, values);
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

std::optional<torch::Dtype> floating_dtype_in(const c10::IValue& value) {
  std::optional<torch::Dtype> dtype;
  value.visit([&](const c10::IValue& part) {
    if (!dtype && part.isTensor() && part.toTensor().is_floating_point()) dtype = part.toTensor().scalar_type();
    return dtype.has_value();
  });
  return dtype;
}

Loss scripted_loss(const std::string& file, Reduction reduction) {
  const std::shared_ptr<TorchScriptModel> module = load_torchscript(file);
  return
      [module, file, reduction](const c10::IValue& output, const std::optional<Tensor>& targets, std::int64_t samples) {
        // Weights of classes and the like.
        if (const auto dtype = floating_dtype_in(output)) module->convert(*dtype);
        std::vector<c10::IValue> arguments{output};
        if (targets) arguments.emplace_back(*targets);
        c10::IValue result;
        try {
          result = module->forward(arguments);
        } catch (const std::exception& error) {
          throw InputError(text("the loss '", file, "' failed: ", message_of(error)));
        }
        return opaque_term(file, result, reduction, samples);
      };
}

std::string known_names() {
  std::string names;
  for (const auto& name : loss_names()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace

const std::vector<std::string>& loss_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const auto& loss : named_losses) result.emplace_back(loss.name);
    result.emplace_back(models_own_loss);
    return result;
  }();
  return names;
}

Loss make_loss(const std::string& name, Reduction reduction) {
  for (const auto& loss : named_losses) {
    if (name == loss.name) return named_loss(loss);
  }
  if (model_computes(name)) {
    return [name, reduction](const c10::IValue& output, const std::optional<Tensor>&, std::int64_t samples) {
      return opaque_term(name, output, reduction, samples);
    };
  }
  std::error_code ignored;
  if (std::filesystem::is_regular_file(name, ignored)) return scripted_loss(name, reduction);
  throw InputError(text("there is no loss '", name, "', neither by this name nor as a file; known are ", known_names(),
                        ", or a file with a scripted module"));
}

bool model_computes(const std::string& loss_name) {
  return loss_name == models_own_loss;
}

}  // namespace hessian_mpi
