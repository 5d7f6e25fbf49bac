#include "hessian_mpi/network/problem.hpp"

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "blaming_input.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/torch_error.hpp"
#include "tensor_text.hpp"
#include "values.hpp"

namespace hessian_mpi::network {
namespace {

torch::Dtype dtype_of(Precision precision) {
  return precision == Precision::float32 ? torch::kFloat32 : torch::kFloat64;
}

std::string listed(const std::vector<NamedTensor>& parameters) {
  std::string names;
  for (std::size_t p = 0; p < std::min<std::size_t>(parameters.size(), 10); ++p) {
    names += (p == 0 ? "" : ", ") + printable(parameters[p].name);
  }
  return names + (parameters.size() > 10 ? text(", ... (", parameters.size(), " in all)") : "");
}

std::string dtype_name(const torch::Tensor& tensor) {
  return std::string(c10::getDtypeNames(tensor.scalar_type()).first);
}

// The one dtype of some tensors, where the user named none. what: they are, for messages.
Precision precision_of(const std::vector<NamedTensor>& tensors, const char* what) {
  if (tensors.empty()) return Precision::float32;
  const auto& first = tensors.front();
  for (const auto& other : tensors) {
    if (other.value.dtype() != first.value.dtype()) {
      throw InputError(text(what, " have several dtypes ('", printable(first.name), "' is ", dtype_name(first.value),
                            ", '", printable(other.name), "' is ", dtype_name(other.value),
                            "): choose one with --dtype"));
    }
  }
  if (first.value.scalar_type() == torch::kFloat32) return Precision::float32;
  if (first.value.scalar_type() == torch::kFloat64) return Precision::float64;
  throw InputError(
      text(what, " are ", dtype_name(first.value), ": second derivatives need --dtype float32 or --dtype float64"));
}

template <class Condition>
std::vector<NamedTensor> those(std::vector<NamedTensor> tensors, const Condition& condition) {
  std::erase_if(tensors, [&](const NamedTensor& tensor) { return !condition(tensor.value); });
  return tensors;
}

// The inputs, with names that the data have for them, or those of the model's arguments.
std::vector<NamedTensor> named_inputs(const Data& data, const std::vector<std::string>& arguments) {
  std::vector<NamedTensor> inputs;
  for (std::size_t k = 0; k < data.inputs.size(); ++k) {
    const auto& names = data.input_names.empty() ? arguments : data.input_names;
    inputs.push_back({k < names.size() ? names[k] : text("inputs.", k), data.inputs[k]});
  }
  return inputs;
}

// Which inputs span the Hessian: those of the settings' names, or all floating-point ones.
std::vector<bool> spanning_inputs(const Data& data, std::vector<std::string> arguments,
                                  const ProblemSettings& settings) {
  if (!settings.inputs) return {};
  const auto& names = *settings.inputs;
  arguments.resize(std::min(arguments.size(), data.inputs.size()));  // behind them stand targets
  auto chosen = data.named(names, arguments, "--with-respect-to inputs:");
  const auto inputs = named_inputs(data, arguments);
  std::string others;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const auto& [name, value] = inputs[k];
    if (names.empty()) chosen[k] = value.is_floating_point();
    if (value.is_floating_point()) continue;
    const auto description = text("'", printable(name), "' holds ", dtype_name(value));
    if (chosen[k]) {
      throw InputError(text("--with-respect-to: the input ", description,
                            ", by which nothing is derived: only floating-point inputs span a Hessian"));
    }
    others += (others.empty() ? "" : ", ") + description;
  }
  if (std::none_of(chosen.begin(), chosen.end(), [](bool one) { return one; })) {
    throw InputError(text("--with-respect-to inputs: the data have no floating-point input (", others, ")"));
  }
  return chosen;
}

// The user's; else that of the trainable parameters, or where inputs span the Hessian, of all parameters, or where the
// model has none, of these inputs.
Precision precision_for(const Model& model, const Data& data, const std::vector<bool>& chosen,
                        const ProblemSettings& settings) {
  if (settings.precision) return *settings.precision;
  const auto parameters = model.parameters();
  if (!settings.inputs) {
    return precision_of(those(parameters, [](const torch::Tensor& value) { return value.requires_grad(); }),
                        "the model's parameters");
  }
  const auto floating = those(parameters, [](const torch::Tensor& value) { return value.is_floating_point(); });
  if (!floating.empty()) return precision_of(floating, "the model's parameters");
  const auto inputs = named_inputs(data, model.input_names());
  std::vector<NamedTensor> spanning;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    if (chosen[k]) spanning.push_back(inputs[k]);
  }
  return precision_of(spanning, "the inputs");
}

void check_trainable(const std::vector<NamedTensor>& parameters) {
  if (parameters.empty()) {
    throw InputError(
        "the model has no parameters (a frozen TorchScript module has none: save it before torch.jit.freeze)");
  }
  const auto trainable = [](const NamedTensor& parameter) { return parameter.value.requires_grad(); };
  if (std::none_of(parameters.begin(), parameters.end(), trainable)) {
    throw InputError("no parameter of the model has requires_grad = true");
  }
}

void check_patterns(const std::vector<NamedTensor>& parameters, const std::vector<std::string>& patterns) {
  for (const auto& pattern : patterns) {
    const bool fits = std::any_of(parameters.begin(), parameters.end(), [&](const NamedTensor& parameter) {
      return parameter.value.requires_grad() && matrix::matches_any(parameter.name, {pattern});
    });
    if (!fits) {
      throw InputError(
          text("--parameters '", pattern, "' fits no trainable parameter; the model has ", listed(parameters)));
    }
  }
}

// Names stand in the output file and in messages.
void check_name(const char* kind, const std::string& name) {
  constexpr std::size_t longest = 4096;
  if (name.size() > longest) {
    throw InputError(text("the ", kind, " '", printable(name), "' has a name of ", name.size(), " bytes; ", longest,
                          " are the most"));
  }
  if (!is_printable(name)) {
    throw InputError(text("the ", kind, " '", printable(name),
                          "' has control characters in its name, or bytes that are not UTF-8: give it another name"));
  }
}

// Frozen ones may be infinite, as a mask that is added to the scores of attention is.
void check_values(const std::vector<NamedTensor>& parameters, const std::vector<std::string>& patterns) {
  constexpr int most = 3;
  std::string listed;
  int wrong = 0;
  for (const auto& [name, value] : parameters) {
    const bool chosen = value.requires_grad() && matrix::matches_any(name, patterns);
    const auto values = value.detach();
    const std::string found = count_and_places(chosen ? values.isfinite().logical_not() : values.isnan());
    if (found.empty() || ++wrong > most) continue;
    listed += text(wrong == 1 ? "" : ", ", "'", printable(name), "' in ", found);
  }
  if (wrong == 0) return;
  throw InputError(text("the model's parameters hold NaN or infinity: ", listed,
                        wrong > most ? text(", and ", wrong - most, " more parameters") : "",
                        "; there is no Hessian at this point"));
}

double sum_of_squares(const torch::Tensor& values) {
  return values.detach().to(torch::kFloat64).square().sum().item<double>();
}

// A note for errors that infinity among the data may explain; empty where there is none.
std::string infinities_in(const Data& data) {
  std::string note;
  const auto look_at = [&note](const std::string& what, const torch::Tensor& values) {
    if (!values.is_floating_point()) return;
    const std::string found = count_and_places(values.isinf());
    if (!found.empty()) note += text("; note that the ", what, " hold infinity in ", found);
  };
  const auto look_at_all = [&look_at](const std::string& what, const std::vector<torch::Tensor>& tensors) {
    for (std::size_t k = 0; k < tensors.size(); ++k) {
      look_at(tensors.size() == 1 ? what : text(what, ' ', k), tensors[k]);
    }
  };
  look_at_all("inputs", data.inputs);
  look_at_all("targets", data.targets);
  return note;
}

// Targets as a loss takes them: none, a tensor, or a tuple of several.
c10::IValue value_of(const std::vector<torch::Tensor>& targets) {
  if (targets.empty()) return {};
  if (targets.size() == 1) return targets.front();
  std::vector<c10::IValue> copies;  // a scripted loss may write into them
  copies.reserve(targets.size());
  for (const auto& tensor : targets) copies.emplace_back(tensor.clone());
  return c10::ivalue::Tuple::create(std::move(copies));
}

// Derivatives of a scalar by the parameters, undefined where it does not depend on one.
std::vector<torch::Tensor> derivatives(const torch::Tensor& value, const std::vector<torch::Tensor>& parameters,
                                       bool create_graph) {
  if (!value.requires_grad()) return std::vector<torch::Tensor>(parameters.size());
  return blaming_input(
      [&] { return torch::autograd::grad({value}, parameters, {}, create_graph, create_graph, /*allow_unused=*/true); },
      [](const std::string& reason) {
        const auto says = [&](const char* words) { return reason.find(words) != std::string::npos; };
        return text("the loss could not be differentiated: ", reason,
                    says("is not implemented")    ? "; replace the operation by others that can be differentiated twice"
                    : says("graph a second time") ? "; derivatives that forward() takes itself must leave the graph: "
                                                    "torch.autograd.grad(..., retain_graph=True), or create_graph=True"
                                                  : "");
      });
}

// Runs step for a batch and says which samples it was about where it throws.
template <class Step>
auto on_batch(const Problem& problem, const Rows& samples, const std::string& note, const Step& step) {
  const auto where =
      problem.batches() == 1 ? std::string() : text(" (batch of samples ", samples.begin, " to ", samples.end - 1, ")");
  return blaming_input(
      [&] {
        try {
          return step();
        } catch (const InputError& error) {
          throw InputError(error.what() + where + note);
        }
      },
      [&](const std::string& reason) {
        return text("the model could not be run on the data", where, ": ", reason, note);
      });
}

Whole whole_of(const Data& data, const std::vector<std::string>& arguments, const ProblemSettings& settings) {
  auto whole = data.named(settings.whole, arguments, "--whole");
  const bool all_may_be_whole = model_computes(settings.loss) && !settings.batch_size;
  if (all_may_be_whole && (settings.inputs || !data.has_samples(whole))) whole.assign(whole.size(), true);
  data.require_samples("the data", whole);
  return whole;
}

}  // namespace

// The loss of some samples and of their halves, as it comes.
struct Problem::Halves {
  Rows samples;
  double whole;
  std::array<double, 2> parts;
  std::array<double, 2> shares;  // of the samples

  bool average() const { return alike(shares[0] * parts[0] + shares[1] * parts[1], shares[0], shares[1]); }
  bool add_up() const { return alike(parts[0] + parts[1], 1, 1); }
  std::string in_words() const {
    return text("of samples ", samples.begin, " to ", samples.end - 1, " it is ", whole, ", of their halves ", parts[0],
                " and ", parts[1]);
  }

 private:
  bool alike(double joined, double first, double second) const {
    constexpr double rounding = 1e-3;
    return std::abs(joined - whole) <= rounding * (first * std::abs(parts[0]) + second * std::abs(parts[1]));
  }
};

Problem::Problem(std::unique_ptr<Model> model, const Data& data, const ProblemSettings& settings)
    : model_(std::move(model)),
      loss_(make_loss(settings.loss, settings.reduction, settings.loss_options, settings.keep_casts)),
      loss_name_(settings.loss),
      loss_options_(text_of_loss_options(settings.loss_options)),
      l2_(settings.l2),
      model_computes_loss_(model_computes(settings.loss)),
      reduction_(settings.reduction),
      seed_(settings.seed),
      device_(settings.device),
      matrix_(settings.matrix),
      by_inputs_(settings.inputs.has_value()) {
  if (matrix_ == Matrix::jacobian && data.targets.empty() && wants_targets(loss_name_)) {
    loss_ = sum_of_outputs();
    loss_name_ = "none";
    loss_options_.clear();
  }
  const auto ordered = data.in_order_of(model_->input_names());
  const auto chosen = spanning_inputs(ordered, model_->input_names(), settings);
  precision_ = precision_for(*model_, ordered, chosen, settings);
  data_ = ordered.converted(dtype_of(precision_));
  whole_ = whole_of(data_, model_->input_names(), settings);
  batch_size_ = std::min(settings.batch_size.value_or(samples()), samples());
  infinities_ = infinities_in(data_);
  model_->keep_casts(settings.keep_casts);
  model_->convert(dtype_of(precision_), device_);
  if (settings.values) notes_ = set_values(*model_, *settings.values, settings.precision);
  model_->set_mode(settings.mode);
  if (settings.inputs) {
    select_inputs(chosen);
  } else {
    select_parameters(settings);
  }
  if (!has_known_formula(settings.loss)) expect_reduction(settings);
  if (reduction_ == Reduction::mean && batches() > 1) {
    double count = 0;  // with gradients on, which a network may take itself
    for (std::int64_t b = 0; b < batches(); ++b) count += term(b).count;
    count_ = count;
  }
}

void Problem::select_parameters(const ProblemSettings& settings) {
  const auto all = model_->parameters();
  check_trainable(all);
  check_patterns(all, settings.patterns);
  check_values(all, settings.patterns);
  for (const auto& parameter : all) {
    const bool chosen = parameter.value.requires_grad() && matrix::matches_any(parameter.name, settings.patterns);
    // What is held fixed costs nothing in a graph that does not know it.
    if (!chosen && parameter.value.requires_grad()) other_squares_ += sum_of_squares(parameter.value);
    parameter.value.set_requires_grad(chosen);
    if (!chosen) continue;
    check_name("parameter", parameter.name);
    parameters_.push_back(parameter.value);
    index_.append(parameter.name, parameter.value.sizes().vec());
  }
  if (index_.size() == 0) throw InputError("the parameters of the Hessian have no elements");
  if (l2_ > 0 && !std::isfinite(other_squares_)) {
    throw InputError("--l2: a trainable parameter that --parameters leaves out is infinite, and so is its square");
  }
}

// The data get leaves in their place, which no other problem has.
void Problem::select_inputs(const std::vector<bool>& chosen) {
  const auto parameters = model_->parameters();
  check_values(parameters, {});
  for (const auto& parameter : parameters) parameter.value.set_requires_grad(false);
  const auto inputs = named_inputs(data_, model_->input_names());
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    if (!chosen[k]) continue;
    const auto& name = inputs[k].name;
    check_name("input", name);
    if (const auto found = count_and_places(inputs[k].value.isinf()); !found.empty()) {
      throw InputError(text("the input '", name, "' holds infinity in ", found,
                            ": there is no Hessian at this point; other inputs are chosen by --with-respect-to "
                            "inputs:NAME"));
    }
    auto& leaf = data_.inputs[k];
    leaf = leaf.to(device_).clone(at::MemoryFormat::Contiguous).requires_grad_();
    parameters_.push_back(leaf);
    index_.append(name, leaf.sizes().vec());
  }
  if (index_.size() == 0) throw InputError("the inputs of --with-respect-to have no elements");
}

bool Problem::convolves_single_channels() const {
  constexpr std::int64_t fewest_dimensions = 3;  // of a convolution's weight: outputs, channels of a group, width
  bool found = false;
  for (const auto& parameter : model_->parameters()) {
    if (parameter.value.dim() < fewest_dimensions) continue;
    if (parameter.value.size(1) != 1) return false;
    found = true;
  }
  return found;
}

// Nothing where the network or the loss takes no other number of samples.
std::optional<Problem::Halves> Problem::halves() const {
  const Rows all{0, std::min(samples(), std::max<std::int64_t>(batch_size_, 2))};
  const auto middle = all.end / 2;
  if (middle == 0) return std::nullopt;
  const auto value_of = [&](std::int64_t begin, std::int64_t end) {
    const auto output = run(data_.batch(begin, end, whole_), 0);
    return loss_(output.value, output.targets, output.samples).value.item<double>();
  };
  try {
    const auto share = static_cast<double>(middle) / static_cast<double>(all.end);
    return Halves{all, value_of(0, all.end), {value_of(0, middle), value_of(middle, all.end)}, {share, 1 - share}};
  } catch (const std::exception& error) {
    if (is_out_of_gpu_memory(error.what())) throw;
    return std::nullopt;
  }
}

// Whether a loss of unknown formula averages or adds up is told by its values; where they are all rounding, as at a
// minimum, by those at another point.
void Problem::expect_reduction(const ProblemSettings& settings) {
  auto found = halves();
  if (!found) return;
  if (found->average() == found->add_up()) {
    const auto theta = flat_parameters();
    auto moved = theta;
    for (std::size_t k = 0; k < theta.size(); ++k) moved[k] += 0.1 * theta[k] + 0.01 * std::sin(static_cast<double>(k));
    set_parameters(moved);
    found = halves();
    set_parameters(theta);
    if (!found) return;
  }
  const auto loss =
      model_computes_loss_ ? std::string("the loss that the model returns") : text("the loss '", settings.loss, "'");
  if (found->average() == found->add_up()) {
    // Layers that know the batch, or draw random numbers for it, are what the mode has them for.
    if (found->average() || batches() == 1 || settings.mode == Mode::train) return;
    throw InputError(text(loss, " is neither the mean nor the sum of that of its parts: ", found->in_words(),
                          "; in batches it would be another one: leave out --batch-size"));
  }
  if (found->add_up() && reduction_ == Reduction::mean) {
    throw InputError(
        text(loss, " adds up its samples: ", found->in_words(),
             "; --reduction mean takes it for their mean: write --reduction sum, or have it take the mean"));
  }
  if (found->average() && reduction_ == Reduction::sum) {
    throw InputError(text(loss, " is the mean of its samples: ", found->in_words(),
                          "; --reduction sum takes it for their sum: write --reduction mean, or have it take the sum"));
  }
}

Rows Problem::samples_in(std::int64_t b) const {
  return {b * batch_size_, std::min((b + 1) * batch_size_, samples())};
}

BatchOutput Problem::run(const Data& on_host, std::int64_t b) const {
  const Data batch = on_host.converted(dtype_of(precision_), device_);
  std::vector<c10::IValue> arguments(batch.inputs.begin(), batch.inputs.end());
  if (model_computes_loss_) arguments.insert(arguments.end(), batch.targets.begin(), batch.targets.end());
  // The same masks in every forward of a batch, on every rank and in every check.
  torch::manual_seed(seed_ + static_cast<std::uint64_t>(b));
  return {model_->forward(arguments), value_of(batch.targets), batch.samples(whole_)};
}

Data Problem::copies_of(const Rows& samples, std::int64_t copies) const {
  if (copies > 1 && std::count(whole_.begin(), whole_.end(), true) > 0) {
    throw InputError("inputs that are whole have no copies");
  }
  return data_.batch(samples.begin, samples.end, whole_).repeated(copies);
}

LossTerm Problem::term(std::int64_t b, std::int64_t copies) const {
  const Rows samples = samples_in(b);
  return on_batch(*this, samples, infinities_, [&] {
    const auto output = run(copies_of(samples, copies), b);
    return loss_(output.value, output.targets, output.samples);
  });
}

void Problem::expect_outputs() const {
  if (!model_computes_loss_) return;
  throw InputError(text("--matrix ", name_of(matrix_),
                        " is made of the model's outputs, and with --loss output the model returns the loss alone: "
                        "export it without its loss",
                        matrix_ == Matrix::jacobian
                            ? ""
                            : ", and name that by --loss; one of your own is exported to a file (--loss FILE)"));
}

BatchOutput Problem::output(std::int64_t b, std::int64_t copies) const {
  expect_outputs();
  const Rows samples = samples_in(b);
  return on_batch(*this, samples, infinities_, [&] { return run(copies_of(samples, copies), b); });
}

BatchOutput Problem::output_of(const Rows& samples) const {
  expect_outputs();
  return on_batch(*this, samples, infinities_,
                  [&] { return run(data_.batch(samples.begin, samples.end, whole_), samples.begin / batch_size_); });
}

double Problem::terms(const BatchOutput& output, std::int64_t copies) const {
  if (reduction_ == Reduction::sum) return 1;
  if (count_) return *count_;
  return loss_(output.value, output.targets, output.samples).count / static_cast<double>(copies);
}

torch::Tensor Problem::loss_of(const BatchOutput& output, double terms) const {
  const LossTerm share = loss_(output.value, output.targets, output.samples);
  return share.value * weight_of(share, terms);
}

double Problem::weight_of(const LossTerm& term, double count) const {
  if (reduction_ == Reduction::sum) return term.multiplicity;
  if (count == 0) {
    throw InputError("no target takes part in the mean: all are ignored, or the weights of their classes add up to 0");
  }
  return term.multiplicity / count;
}

torch::Tensor Problem::loss(std::int64_t b, std::int64_t copies) const {
  const LossTerm share = term(b, copies);
  const double weight = weight_of(share, count_.value_or(share.count / static_cast<double>(copies)));
  return weight == 1 ? share.value : share.value * weight;
}

std::vector<torch::Tensor> Problem::gradient(std::int64_t b, bool create_graph) const {
  auto gradient = derivatives(loss(b), parameters_, create_graph);
  // Of embeddings: what is derived again takes cotangents in the layout of parameters.
  for (auto& g : gradient) {
    if (g.defined() && g.is_sparse()) g = g.to_dense();
  }
  return gradient;
}

double Problem::l2_term() const {
  if (l2_ == 0) return 0;
  double squares = other_squares_;
  for (const auto& parameter : parameters_) squares += sum_of_squares(parameter);
  return l2_ / 2 * squares;
}

std::vector<double> Problem::flat_parameters() const {
  std::vector<double> theta(static_cast<std::size_t>(index_.size()));
  const auto flat = torch::from_blob(theta.data(), {index_.size()}, torch::kFloat64);
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    const auto& entry = index_.entries()[p];
    flat.narrow(0, entry.offset, entry.size).copy_(parameters_[p].detach().reshape(-1));
  }
  return theta;
}

void Problem::set_parameters(const std::vector<double>& theta) {
  const torch::NoGradGuard values_only;
  const auto flat = torch::tensor(theta, torch::kFloat64);
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    const auto& entry = index_.entries()[p];
    parameters_[p].copy_(flat.narrow(0, entry.offset, entry.size).reshape(entry.shape));
  }
}

BatchGradient loss_and_gradient(const Problem& problem, std::int64_t batch) {
  const auto value = problem.loss(batch);
  return {value.item<double>(), derivatives(value, problem.parameters(), /*create_graph=*/false)};
}

void add_l2_term(const Problem& problem, LossAndGradient& sum) {
  if (problem.l2() == 0) return;
  sum.loss += problem.l2_term();
  const auto theta = problem.flat_parameters();
  for (std::size_t k = 0; k < theta.size(); ++k) sum.gradient[k] += problem.l2() * theta[k];
}

LossAndGradient evaluate(const Problem& problem) {
  LossAndGradient sum;
  sum.gradient.assign(static_cast<std::size_t>(problem.index().size()), 0.0);
  const auto flat = torch::from_blob(sum.gradient.data(), {problem.index().size()}, torch::kFloat64);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto [loss, gradient] = loss_and_gradient(problem, b);
    sum.loss += loss;
    for (std::size_t p = 0; p < gradient.size(); ++p) {
      const auto& entry = problem.index().entries()[p];
      if (gradient[p].defined())
        flat.narrow(0, entry.offset, entry.size).add_(gradient[p].to_dense().reshape(-1).cpu());
    }
  }
  add_l2_term(problem, sum);
  return sum;
}

}  // namespace hessian_mpi::network
