#include "hessian_mpi/network/loss.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/script.h>
#include <torch/serialize.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "content_of.hpp"
#include "expect_error.hpp"
#include "torchscript_model.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

constexpr double tolerance = 1e-12;
constexpr std::int64_t ignored = -100;

// ---- formulas of the named losses per element, written out: value and derivatives with respect to the output

struct Formula {
  double value;
  double slope;
  double curvature;
};

double sign(double x) {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}

Formula mse(double o, double t) {
  return {(o - t) * (o - t), 2 * (o - t), 2};
}
Formula l1(double o, double t) {
  return {std::abs(o - t), sign(o - t), 0};
}
// smooth_l1 with beta 1 and huber with delta 1 are the same.
Formula huber(double o, double t) {
  const double d = o - t;
  return std::abs(d) < 1 ? Formula{d * d / 2, d, 1} : Formula{std::abs(d) - 0.5, sign(d), 0};
}
Formula bce(double o, double t) {
  return {-t * std::log(o) - (1 - t) * std::log(1 - o), -t / o + (1 - t) / (1 - o),
          t / (o * o) + (1 - t) / ((1 - o) * (1 - o))};
}
Formula bce_with_logits(double o, double t) {
  const double s = 1 / (1 + std::exp(-o));
  return {-t * std::log(s) - (1 - t) * std::log(1 - s), s - t, s * (1 - s)};
}
Formula kl_div(double o, double t) {
  return {t == 0 ? 0 : t * (std::log(t) - o), -t, 0};
}
Formula poisson_nll(double o, double t) {
  return {std::exp(o) - t * o, std::exp(o) - t, std::exp(o)};
}

struct Elementwise {
  const char* name;
  Formula (*formula)(double, double);
  bool probabilities;  // output and targets have to be in [0, 1]
};

const Elementwise elementwise[] = {{"mse", mse, false},         {"l1", l1, false},
                                   {"smooth_l1", huber, false}, {"huber", huber, false},
                                   {"bce", bce, true},          {"bce_with_logits", bce_with_logits, false},
                                   {"kl_div", kl_div, true},    {"poisson_nll", poisson_nll, false}};

Tensor random_output(at::IntArrayRef shape, std::uint64_t seed, bool probabilities = false) {
  torch::manual_seed(seed);
  const Tensor values =
      probabilities ? torch::rand(shape, torch::kDouble) * 0.9 + 0.05 : 2 * torch::randn(shape, torch::kDouble);
  return values.requires_grad_();
}

Tensor gradient(const LossTerm& term, const Tensor& output) {
  return torch::autograd::grad({term.value}, {output})[0];
}

double number(const Tensor& tensor) {
  return tensor.item<double>();
}

// The matrix of second derivatives of the term by the output's elements.
Tensor curvature(const LossTerm& term, const Tensor& output) {
  const Tensor slopes = torch::autograd::grad({term.value}, {output}, {}, true, true)[0].reshape({-1});
  std::vector<Tensor> rows;
  for (std::int64_t i = 0; i < slopes.numel(); ++i) {
    Tensor row = torch::zeros_like(output);
    if (slopes.requires_grad()) {
      const auto found = torch::autograd::grad({slopes[i]}, {output}, {}, true, false, /*allow_unused=*/true)[0];
      if (found.defined()) row = found;
    }
    rows.push_back(row.reshape({-1}));
  }
  return torch::stack(rows);
}

class ElementwiseLoss : public testing::TestWithParam<Elementwise> {};

TEST_P(ElementwiseLoss, HasTheValueAndTheGradientOfItsFormula) {
  const auto& [name, formula, probabilities] = GetParam();
  const Tensor output = random_output({6, 3, 2}, 1, probabilities);
  torch::manual_seed(2);
  const Tensor targets = torch::rand({6, 3, 2}, torch::kDouble);
  const LossTerm term = make_loss(name, Reduction::mean)(output, targets, 6);
  const Tensor slopes = gradient(term, output).reshape({-1});
  const Tensor o = output.detach().reshape({-1});
  const Tensor t = targets.reshape({-1});
  double sum = 0;
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    const auto [value, slope, _] = formula(number(o[i]), number(t[i]));
    sum += value;
    EXPECT_NEAR(number(slopes[i]), slope, tolerance) << "element " << i;
  }
  EXPECT_NEAR(number(term.value), sum, tolerance * 36);
  EXPECT_EQ(term.value.dim(), 0);
  EXPECT_EQ(term.multiplicity, 1);
  EXPECT_EQ(term.count, 36);
}

TEST_P(ElementwiseLoss, HasTheSecondDerivativesOfItsFormula) {
  const auto& [name, formula, probabilities] = GetParam();
  const Tensor output = random_output({4, 3}, 1, probabilities);
  torch::manual_seed(2);
  const Tensor targets = torch::rand({4, 3}, torch::kDouble);
  const LossTerm term = make_loss(name, Reduction::mean)(output, targets, 4);
  const Tensor o = output.detach().reshape({-1});
  const Tensor t = targets.reshape({-1});
  Tensor expected = torch::zeros({12, 12}, torch::kDouble);
  for (std::int64_t i = 0; i < 12; ++i) expected[i][i] = formula(number(o[i]), number(t[i])).curvature;
  // LibTorch adds 1e-12 to probabilities in the second derivative of bce.
  const double scale = 1 + number(expected.abs().max());
  EXPECT_LT(number((curvature(term, output) - expected).abs().max()), 1e-10 * scale);
}

TEST_P(ElementwiseLoss, TakesIntegerAndBooleanTargetsAsNumbers) {
  const auto& [name, formula, probabilities] = GetParam();
  const Tensor output = random_output({5}, 3, probabilities);
  const Tensor ones_and_zeros = torch::tensor({0, 1, 1, 0, 1});
  const Loss loss = make_loss(name, Reduction::sum);
  const double expected = number(loss(output, ones_and_zeros.to(torch::kDouble), 5).value);
  EXPECT_EQ(number(loss(output, ones_and_zeros.to(torch::kInt), 5).value), expected);
  EXPECT_EQ(number(loss(output, ones_and_zeros.to(torch::kBool), 5).value), expected);
  EXPECT_EQ(number(loss(output, ones_and_zeros.to(torch::kFloat), 5).value), expected);
}

TEST_P(ElementwiseLoss, DoesNotBroadcast) {
  const auto name = std::string(GetParam().name);
  const Loss loss = make_loss(name, Reduction::mean);
  const Tensor output = torch::full({8, 1}, 0.5);
  expect_input_error([&] { loss(output, torch::full({8}, 0.5), 8); },
                     {"targets are float32 of shape [8]", name, "shape of the model's output, [8, 1]"});
  expect_input_error([&] { loss(output, torch::full({8, 2}, 0.5), 8); }, {"[8, 2]", "[8, 1]"});
}

TEST_P(ElementwiseLoss, WantsTargets) {
  const Loss loss = make_loss(GetParam().name, Reduction::mean);
  expect_input_error([&] { loss(torch::full({8, 1}, 0.5), std::nullopt, 8); }, {GetParam().name, "wants targets"});
}

INSTANTIATE_TEST_SUITE_P(Named, ElementwiseLoss, testing::ValuesIn(elementwise),
                         [](const auto& instance) { return std::string(instance.param.name); });

// ---- losses of classes

// log softmax over the second dimension of [B, C, P], from the definition.
Tensor log_probabilities(const Tensor& output) {
  return output - output.exp().sum(1, /*keepdim=*/true).log();
}

TEST(CrossEntropy, HasTheValueAndTheGradientOfItsFormula) {
  const Tensor output = random_output({7, 4}, 4);
  const Tensor targets = torch::tensor({3, 0, 1, 2, 2, 0, 3});
  const LossTerm term = make_loss("cross_entropy", Reduction::mean)(output, targets, 7);
  const Tensor log_p = log_probabilities(output.detach());
  double sum = 0;
  Tensor slopes = log_p.exp();
  for (std::int64_t k = 0; k < 7; ++k) {
    const auto y = targets[k].item<std::int64_t>();
    sum -= number(log_p[k][y]);
    slopes[k][y] -= 1;
  }
  EXPECT_NEAR(number(term.value), sum, tolerance);
  EXPECT_LT(number((gradient(term, output) - slopes).abs().max()), tolerance);
  EXPECT_EQ(term.multiplicity, 1);
  EXPECT_EQ(term.count, 7);
}

TEST(CrossEntropy, TakesProbabilitiesAsTargets) {
  const Tensor output = random_output({5, 3, 2}, 5);
  torch::manual_seed(6);
  const Tensor raw = torch::rand({5, 3, 2}, torch::kDouble);
  const Tensor targets = raw / raw.sum(1, true);
  const LossTerm term = make_loss("cross_entropy", Reduction::mean)(output, targets, 5);
  const Tensor log_p = log_probabilities(output.detach());
  EXPECT_NEAR(number(term.value), number(-(targets * log_p).sum()), tolerance);
  EXPECT_LT(number((gradient(term, output) - (log_p.exp() - targets)).abs().max()), tolerance);
  EXPECT_EQ(term.count, 10) << "one term per sample and position";
}

TEST(CrossEntropy, TakesPositionsAfterTheClasses) {
  const Tensor output = random_output({2, 3, 2, 2}, 7);
  const Tensor targets = torch::tensor({0, 1, 2, 0, 1, 1, 2, 2}).view({2, 2, 2});
  const LossTerm term = make_loss("cross_entropy", Reduction::mean)(output, targets, 2);
  const Tensor log_p = log_probabilities(output.detach());
  double sum = 0;
  for (std::int64_t i = 0; i < 8; ++i) {
    const auto k = i / 4, r = i / 2 % 2, c = i % 2;
    sum -= number(log_p[k][targets[k][r][c].item<std::int64_t>()][r][c]);
  }
  EXPECT_NEAR(number(term.value), sum, tolerance);
  EXPECT_EQ(term.count, 8);
}

// diag(p) - p p^T for each sample and position; times the sum of the targets, which is 1 for an index and for
// probabilities, and 0 where the index is ignored.
TEST(CrossEntropy, HasTheSecondDerivativesOfItsFormula) {
  const Tensor output = random_output({3, 4, 2}, 14);
  const Tensor p = log_probabilities(output.detach()).exp();
  torch::manual_seed(15);
  const Tensor shares = torch::rand({3, 4, 2}, torch::kDouble);
  for (const Tensor& targets : {torch::tensor({3, 0, -100, 2, 1, -100}).view({3, 2}), shares}) {
    const bool indices = !targets.is_floating_point();
    const Tensor weights = indices ? targets.ne(ignored).to(torch::kDouble) : targets.sum(1);
    Tensor expected = torch::zeros({3, 4, 2, 3, 4, 2}, torch::kDouble);
    for (std::int64_t k = 0; k < 3; ++k) {
      for (std::int64_t d = 0; d < 2; ++d) {
        const Tensor q = p.select(0, k).select(1, d);
        expected.select(0, k).select(1, d).select(1, k).select(2, d).copy_((q.diag() - q.outer(q)) * weights[k][d]);
      }
    }
    const LossTerm term = make_loss("cross_entropy", Reduction::mean)(output, targets, 3);
    EXPECT_LT(number((curvature(term, output) - expected.view({24, 24})).abs().max()), tolerance) << indices;
    EXPECT_GT(number(expected.abs().max()), 0.1);
  }
}

TEST(CrossEntropy, LeavesIgnoredTargetsOutOfValueGradientAndCount) {
  const Tensor output = random_output({4, 3}, 8);
  const Loss loss = make_loss("cross_entropy", Reduction::mean);
  const LossTerm some = loss(output, torch::tensor({1, -100, 2, -100}), 4);
  const LossTerm kept = loss(output.index({torch::tensor({0, 2})}), torch::tensor({1, 2}), 2);
  EXPECT_NEAR(number(some.value), number(kept.value), tolerance);
  EXPECT_EQ(some.count, 2);
  EXPECT_EQ(number(gradient(some, output)[1].abs().sum()), 0);
  const LossTerm none = loss(output, torch::full({4}, ignored), 4);
  EXPECT_EQ(number(none.value), 0);
  EXPECT_EQ(none.count, 0);
}

TEST(Nll, HasTheValueAndTheGradientOfItsFormula) {
  const Tensor output = random_output({4, 3}, 9);
  const LossTerm term = make_loss("nll", Reduction::mean)(output, torch::tensor({2, 0, -100, 1}), 4);
  EXPECT_NEAR(number(term.value), -number(output[0][2] + output[1][0] + output[3][1]), tolerance);
  EXPECT_EQ(term.count, 3);
  const Tensor expected = torch::tensor({0, 0, -1, -1, 0, 0, 0, 0, 0, 0, -1, 0}).view({4, 3});
  EXPECT_TRUE(gradient(term, output).equal(expected.to(torch::kDouble)));
}

class LossOfClasses : public testing::TestWithParam<std::string> {};

TEST_P(LossOfClasses, TakesIndicesOfEveryIntegerType) {
  const Tensor output = random_output({3, 2}, 10);
  const Loss loss = make_loss(GetParam(), Reduction::mean);
  const Tensor targets = torch::tensor({1, 0, 1});
  const double expected = number(loss(output, targets, 3).value);
  for (const auto dtype : {torch::kInt, torch::kShort, torch::kChar, torch::kByte, torch::kBool}) {
    EXPECT_EQ(number(loss(output, targets.to(dtype), 3).value), expected) << dtype;
  }
}

TEST_P(LossOfClasses, NamesTheSampleWhoseIndexIsOutOfRange) {
  const Loss loss = make_loss(GetParam(), Reduction::mean);
  const Tensor output = torch::zeros({3, 5});
  expect_input_error(
      [&] {
        loss(output, torch::tensor({0, 5, 7}), 3);
      },
      {"sample 1 of the batch", "class index 5", "5 classes", "from 0 to 4"});
  expect_input_error(
      [&] {
        loss(output, torch::tensor({0, -100, -1}), 3);
      },
      {"sample 2 of the batch", "class index -1"});
  const Tensor images = torch::zeros({2, 3, 4});
  Tensor positions = torch::zeros({2, 4}, torch::kLong);
  positions[1][2] = 3;
  expect_input_error([&] { loss(images, positions, 2); }, {"sample 1 of the batch", "class index 3"});
}

TEST_P(LossOfClasses, SaysWhichTargetsItWants) {
  const Loss loss = make_loss(GetParam(), Reduction::mean);
  const Tensor output = torch::zeros({8, 5});
  expect_input_error([&] { loss(output, torch::zeros({8}), 8); },
                     {"targets are float32 of shape [8]", GetParam() + " wants integer class indices of shape [8]"});
  expect_input_error([&] { loss(output, torch::zeros({8, 1}, torch::kLong), 8); }, {"int64 of shape [8, 1]"});
  expect_input_error([&] { loss(output, torch::zeros({7}, torch::kLong), 8); }, {"int64 of shape [7]"});
  expect_input_error([&] { loss(output, torch::zeros({8, 5}, torch::kLong), 8); }, {"int64 of shape [8, 5]"});
  expect_input_error([&] { loss(torch::zeros({8}), torch::zeros({8}, torch::kLong), 8); }, {"[samples, classes]"});
  expect_input_error([&] { loss(output, std::nullopt, 8); }, {"wants targets"});
}

INSTANTIATE_TEST_SUITE_P(Named, LossOfClasses, testing::Values("cross_entropy", "nll"),
                         [](const auto& instance) { return instance.param; });

TEST(CrossEntropy, OffersProbabilitiesInItsMessageAndNllDoesNot) {
  const auto message = [](const std::string& name) {
    try {
      make_loss(name, Reduction::mean)(torch::zeros({8, 5}), torch::zeros({8}), 8);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message("cross_entropy").find("or probabilities of shape [8, 5]"), std::string::npos);
  EXPECT_EQ(message("nll").find("probabilities"), std::string::npos);
}

// ---- every named loss of one output

std::vector<std::string> named_losses() {
  auto names = loss_names();
  EXPECT_EQ(names.back(), "output");
  names.pop_back();
  std::erase_if(names, [](const std::string& name) {
    return name == "gaussian_nll" || name == "margin_ranking" || name == "cosine_embedding" || name == "triplet";
  });
  return names;
}

Tensor fitting_targets(const std::string& name, const Tensor& output) {
  torch::manual_seed(11);
  if (name == "cross_entropy" || name == "nll") {
    Tensor targets = torch::randint(0, output.size(1), {output.size(0)}, torch::kLong);
    targets[1] = ignored;
    return targets;
  }
  if (name == "multi_margin") return torch::randint(0, output.size(1), {output.size(0)}, torch::kLong);
  if (name == "multilabel_margin") return torch::randint(-1, output.size(1), output.sizes(), torch::kLong);
  return torch::rand(output.sizes(), torch::kDouble);
}

TEST(NamedLoss, IsTheSameInBatchesAsAtOnce) {
  for (const auto& name : named_losses()) {
    const Tensor output = random_output({7, 3}, 12, /*probabilities=*/true);
    const Tensor targets = fitting_targets(name, output);
    const Loss loss = make_loss(name, Reduction::mean);
    const LossTerm whole = loss(output, targets, 7);
    double value = 0, count = 0;
    Tensor slopes = torch::zeros_like(output);
    for (const auto& [begin, end] : {std::pair{0, 3}, {3, 6}, {6, 7}}) {
      const LossTerm term = loss(output.slice(0, begin, end), targets.slice(0, begin, end), end - begin);
      value += term.multiplicity * number(term.value);
      count += term.count;
      slopes += term.multiplicity * gradient(term, output);
    }
    EXPECT_NEAR(value / count, number(whole.value) / whole.count, tolerance) << name;
    EXPECT_LT(number((slopes / count - gradient(whole, output) / whole.count).abs().max()), tolerance) << name;
  }
}

TEST(NamedLoss, WantsOneFloatingTensorAsTheModelsOutput) {
  for (const auto& name : named_losses()) {
    const Loss loss = make_loss(name, Reduction::mean);
    const Tensor x = torch::full({4, 3}, 0.5);
    expect_input_error([&] { loss(c10::ivalue::Tuple::create(x, x), x, 4); },
                       {"the model returns a tuple of 2", "scripted loss", "--loss output"});
    expect_input_error([&] { loss(c10::List<Tensor>({x, x, x}), x, 4); }, {"a list of 3"});
    c10::Dict<std::string, Tensor> dict;
    dict.insert("logits", x);
    expect_input_error([&] { loss(dict, x, 4); }, {"a dict of 1"});
    expect_input_error([&] { loss(x.to(torch::kLong), x, 4); }, {"int64 of shape [4, 3]"});
    expect_input_error([&] { loss(torch::tensor(0.5), x, 4); }, {"a scalar", "--loss output"});
    expect_input_error([&] { loss(c10::IValue(), x, 4); }, {"the model returns"});
  }
}

TEST(NamedLoss, NamesTheSampleWhereTheOutputIsNotFinite) {
  for (const auto& name : {"cross_entropy", "mse", "l1", "bce_with_logits", "kl_div", "poisson_nll"}) {
    Tensor output = torch::full({4, 3}, 0.5);
    output[2][0] = std::numeric_limits<float>::quiet_NaN();
    const bool classes = std::string(name) == "cross_entropy";
    const Tensor targets = classes ? torch::zeros({4}, torch::kLong) : torch::full({4, 3}, 0.5);
    expect_input_error([&] { make_loss(name, Reduction::mean)(output, targets, 4); },
                       {"sample 2 of the batch", "nan", name});
  }
}

TEST(NamedLoss, AcceptsOutputsAtMinusInfinityThatTheLossMakesFinite) {
  const Tensor output = torch::tensor({0.0, -std::numeric_limits<double>::infinity()}).view({1, 2});
  const LossTerm term = make_loss("cross_entropy", Reduction::mean)(output, torch::tensor({0}), 1);
  EXPECT_EQ(number(term.value), 0);
}

TEST(NamedLoss, IsAnErrorWhereItIsNotFinite) {
  expect_input_error(
      [] {
        make_loss("poisson_nll", Reduction::sum)(torch::full({2, 1}, 1e6), torch::zeros({2, 1}), 2);
      },
      {"poisson_nll", "inf", "not a finite number"});
}

TEST(NamedLoss, BceWantsProbabilities) {
  const Loss loss = make_loss("bce", Reduction::mean);
  const Tensor half = torch::full({3, 2}, 0.5);
  Tensor high = half.clone();
  high[2][1] = 1.5;
  expect_input_error([&] { loss(high, half, 3); },
                     {"sample 2 of the batch", "1.5", "model's output", "bce_with_logits"});
  expect_input_error([&] { loss(half, high, 3); }, {"sample 2 of the batch", "1.5", "targets", "from 0 to 1"});
  high[0][0] = std::numeric_limits<float>::quiet_NaN();
  expect_input_error([&] { loss(high, half, 3); }, {"sample 0 of the batch", "nan"});
}

TEST(MakeLoss, KnowsTheNamesOfTheManual) {
  const std::vector<std::string> manual{"cross_entropy",
                                        "nll",
                                        "mse",
                                        "l1",
                                        "smooth_l1",
                                        "huber",
                                        "bce",
                                        "bce_with_logits",
                                        "kl_div",
                                        "poisson_nll",
                                        "soft_margin",
                                        "hinge_embedding",
                                        "multi_margin",
                                        "multilabel_margin",
                                        "multilabel_soft_margin",
                                        "gaussian_nll",
                                        "margin_ranking",
                                        "cosine_embedding",
                                        "triplet",
                                        "output"};
  EXPECT_EQ(loss_names(), manual);
  expect_input_error([] { make_loss("crossentropy", Reduction::mean); },
                     {"'crossentropy'", "cross_entropy, nll", "output"});
}

// ---- options, and targets of any dtype, against torch.nn.functional (tests/models/losses.py)

struct Case {
  std::string loss;
  std::vector<std::string> options;
  Reduction reduction;
  std::vector<Tensor> outputs;
  std::optional<Tensor> targets;
  std::int64_t batch_size;
  double value;
  std::vector<Tensor> gradients;
};

std::vector<Tensor> tensors_in(const c10::IValue& list) {
  std::vector<Tensor> tensors;
  for (const auto& part : list.toListRef()) tensors.push_back(part.toTensor());
  return tensors;
}

std::vector<Case> cases_of_pytorch() {
  const auto bytes = content_of<std::vector<char>>(std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "losses.pt");
  const auto list = torch::pickle_load(bytes).toListRef().vec();
  std::vector<Case> cases;
  for (const auto& entry : list) {
    const auto dict = entry.toGenericDict();
    const auto at = [&dict](const char* name) { return dict.at(std::string(name)); };
    std::vector<std::string> options;
    for (const auto& option : at("options").toListRef().vec()) options.push_back(option.toStringRef());
    cases.push_back(
        {at("loss").toStringRef(), options, at("reduction").toStringRef() == "sum" ? Reduction::sum : Reduction::mean,
         tensors_in(at("outputs")), at("targets").isNone() ? std::nullopt : std::optional(at("targets").toTensor()),
         at("batch_size").toInt(), number(at("value").toTensor()), tensors_in(at("gradients"))});
    for (auto& output : cases.back().outputs) output.requires_grad_();
  }
  return cases;
}

std::string text_of(const Case& wanted) {
  std::string options;
  for (const auto& option : wanted.options) options += " " + option;
  const auto targets =
      wanted.targets ? text(", targets ", wanted.targets->scalar_type(), " ", wanted.targets->sizes()) : std::string();
  return text(wanted.loss, options, ", ", wanted.reduction == Reduction::sum ? "sum" : "mean", ", output ",
              wanted.outputs[0].sizes(), targets, ", batches of ", wanted.batch_size);
}

// As the header says that terms are joined.
std::pair<double, std::vector<Tensor>> joined_over_batches(const Case& wanted) {
  const Loss loss = make_loss(wanted.loss, wanted.reduction, wanted.options);
  const auto samples = wanted.outputs[0].size(0);
  double value = 0, count = 0;
  std::vector<Tensor> slopes;
  for (const auto& output : wanted.outputs) slopes.push_back(torch::zeros_like(output));
  for (std::int64_t begin = 0; begin < samples; begin += wanted.batch_size) {
    const auto end = std::min(begin + wanted.batch_size, samples);
    std::vector<c10::IValue> parts;
    for (const auto& output : wanted.outputs) parts.emplace_back(output.slice(0, begin, end));
    const c10::IValue targets = wanted.targets ? c10::IValue(wanted.targets->slice(0, begin, end)) : c10::IValue();
    const LossTerm term =
        loss(parts.size() == 1 ? parts[0] : c10::IValue(c10::ivalue::Tuple::create(parts)), targets, end - begin);
    value += term.multiplicity * number(term.value);
    count += term.count;
    const auto found = torch::autograd::grad({term.value}, wanted.outputs);
    for (std::size_t k = 0; k < slopes.size(); ++k) slopes[k] += term.multiplicity * found[k];
  }
  if (wanted.reduction == Reduction::sum) count = 1;
  for (auto& slope : slopes) slope /= count;
  return {value / count, slopes};
}

TEST(NamedLoss, AgreesWithPyTorchWithAnyOptionsTargetsAndBatches) {
  const auto cases = cases_of_pytorch();
  EXPECT_GT(cases.size(), 500U);
  std::set<std::string> names;
  for (const auto& wanted : cases) {
    SCOPED_TRACE(text_of(wanted));
    names.insert(wanted.loss);
    const auto [value, slopes] = joined_over_batches(wanted);
    EXPECT_NEAR(value, wanted.value, tolerance * std::max(1.0, std::abs(wanted.value)));
    for (std::size_t k = 0; k < slopes.size(); ++k) {
      const double scale = number(wanted.gradients[k].abs().max());
      EXPECT_LE(number((slopes[k] - wanted.gradients[k]).abs().max()), tolerance * scale);
    }
  }
  EXPECT_EQ(names.size() + 1, loss_names().size()) << "a named loss has no case";
}

TEST(NamedLoss, WantsAWeightForEachClass) {
  for (const auto* name : {"cross_entropy", "nll"}) {
    const Loss loss = make_loss(name, Reduction::mean, {"weight=1,2"});
    expect_input_error(
        [&] {
          loss(torch::zeros({4, 3}), torch::zeros({4}, torch::kLong), 4);
        },
        {"--loss-option weight has 2 numbers", "[4, 3] has 3 classes"});
  }
}

TEST(NamedLoss, WantsAWeightForEachPlaceOfTheLastDimensionOrOne) {
  const Tensor half = torch::full({4, 3}, 0.5);
  for (const auto* name : {"mse", "l1", "huber", "bce", "bce_with_logits"}) {
    expect_input_error([&] { make_loss(name, Reduction::mean, {"weight=1,2"})(half, half, 4); },
                       {"--loss-option weight has 2 numbers", "3 in its last dimension"});
    expect_input_error(
        [&] { make_loss(name, Reduction::mean, {"weight=1,2,3,4"})(half.select(1, 0), half.select(1, 0), 4); },
        {"weights of samples need a scripted loss"});
  }
  expect_input_error([&] { make_loss("bce_with_logits", Reduction::mean, {"pos_weight=1,2"})(half, half, 4); },
                     {"--loss-option pos_weight has 2 numbers"});
}

TEST(CrossEntropy, IgnoresNoProbabilities) {
  const Loss loss = make_loss("cross_entropy", Reduction::mean, {"ignore_index=2"});
  expect_input_error(
      [&] {
        loss(torch::zeros({4, 3}), torch::full({4, 3}, 0.3), 4);
      },
      {"ignore_index=2", "probabilities"});
}

TEST(CrossEntropy, CountsTheWeightsOfTargetsThatAreNotIgnored) {
  const Loss loss = make_loss("cross_entropy", Reduction::mean, {"weight=0.5,2,8", "ignore_index=1"});
  EXPECT_EQ(loss(torch::zeros({4, 3}), torch::tensor({0, 1, 2, 2}), 4).count, 16.5);
}

TEST(MakeLoss, SaysWhichOptionsALossHas) {
  expect_input_error([] { make_loss("cross_entropy", Reduction::mean, {"wieght=1"}); },
                     {"'wieght=1'", "'cross_entropy'", "weight, ignore_index, label_smoothing"});
  expect_input_error([] { make_loss("nll", Reduction::mean, {"label_smoothing=0.1"}); }, {"weight, ignore_index"});
  expect_input_error([] { make_loss("output", Reduction::mean, {"weight=1"}); }, {"'weight=1'", "takes none", "model"});
  expect_input_error([] { make_loss("kl_div", Reduction::sum, {"reduction=batchmean"}); },
                     {"batchmean", "--reduction sum"});
}

TEST(NamedLoss, SaysHowToWriteTargetsOfAnotherShape) {
  const auto expect = [](const std::string& name, const Tensor& output, const Tensor& targets, const char* part) {
    SCOPED_TRACE(part);
    expect_input_error([&] { make_loss(name, Reduction::mean)(output, targets, output.size(0)); }, {part});
  };
  const Tensor half = torch::full({8, 3, 2}, 0.5);
  expect("mse", torch::zeros({8, 1}), torch::zeros({8}), "write them as targets.reshape(-1, 1)");
  expect("mse", torch::zeros({8}), torch::zeros({8, 1}), "write them as targets.reshape(-1,)");
  expect("mse", half, torch::zeros({8, 1, 2}), "np.broadcast_to(targets, (len(targets), 3, 2))");
  expect("nll", torch::zeros({8, 3}), torch::zeros({8, 1}, torch::kLong), "write them as targets.reshape(-1,)");
  expect("nll", torch::zeros({8, 3}), torch::zeros({8}), "write them as integers");
  expect("cross_entropy", torch::zeros({8, 3}), torch::zeros({8, 3}, torch::kLong), "floating-point numbers");
  expect("cross_entropy", torch::zeros({4, 5, 7}), torch::zeros({4, 5}, torch::kLong), "output.movedim(-1, 1)");
}

TEST(NamedLoss, WantsOneTensorOfTargets) {
  for (const auto& name : named_losses()) {
    const Tensor x = torch::full({4, 3}, 0.5);
    expect_input_error([&] { make_loss(name, Reduction::mean)(x, c10::ivalue::Tuple::create(x, x), 4); },
                       {"several targets", name, "scripted loss"});
  }
}

// ---- losses whose formula is not known

TEST(OutputLoss, IsAMeanOverTheSamplesOrASumAsTheReductionSays) {
  const Tensor value = torch::tensor({2.5}, torch::kDouble).requires_grad_();
  EXPECT_TRUE(model_computes("output"));
  EXPECT_FALSE(model_computes("mse"));
  const LossTerm mean = make_loss("output", Reduction::mean)(value, std::nullopt, 3);
  EXPECT_EQ(mean.value.dim(), 0);
  EXPECT_EQ(number(mean.value), 2.5);
  EXPECT_EQ(mean.multiplicity, 3);
  EXPECT_EQ(mean.count, 3);
  EXPECT_EQ(number(gradient(mean, value)), 1);
  const LossTerm sum = make_loss("output", Reduction::sum)(value.reshape({}), torch::zeros({3}), 3);
  EXPECT_EQ(number(sum.value), 2.5);
  EXPECT_EQ(sum.multiplicity, 1);
}

TEST(OutputLoss, HasToBeOneFiniteFloatingNumber) {
  const Loss loss = make_loss("output", Reduction::mean);
  expect_input_error([&] { loss(torch::zeros({3}), std::nullopt, 3); },
                     {"'output'", "float32 of shape [3]", "one floating-point number"});
  expect_input_error([&] { loss(torch::zeros({}, torch::kLong), std::nullopt, 3); }, {"int64"});
  expect_input_error([&] { loss(c10::IValue(1.5), std::nullopt, 3); }, {"float"});
  expect_input_error([&] { loss(torch::full({}, std::nan("")), std::nullopt, 3); }, {"nan"});
}

class ScriptedLoss : public testing::Test {
 protected:
  std::string saved(const std::string& source, bool with_weight = false) {
    torch::jit::Module module("Loss");
    if (with_weight) module.register_buffer("weight", torch::tensor({1.0F, 2.0F, 3.0F}));
    module.define(source + "\n");
    const auto path = folder_ / text("loss_", ++number_, ".pt");
    module.save(path.string());
    return path.string();
  }

  ~ScriptedLoss() override { std::filesystem::remove_all(folder_); }

 private:
  UnoptimisedTorchScript unoptimised_;
  int number_ = 0;
  std::filesystem::path folder_ = [] {
    std::string name = (std::filesystem::temp_directory_path() / "loss_test_XXXXXX").string();
    return std::filesystem::path(mkdtemp(name.data()));
  }();
};

TEST_F(ScriptedLoss, IsCalledWithOutputAndTargets) {
  const Loss loss = make_loss(saved("def forward(self, output, targets):\n    return ((output - targets) ** 4).mean()"),
                              Reduction::mean);
  const Tensor output = random_output({5, 2}, 13);
  const Tensor targets = torch::ones({5, 2}, torch::kDouble);
  const LossTerm term = loss(output, targets, 5);
  EXPECT_NEAR(number(term.value), number((output - 1).pow(4).sum()) / 10, tolerance);
  EXPECT_LT(number((gradient(term, output) - 0.4 * (output - 1).pow(3)).abs().max()), tolerance);
  EXPECT_EQ(term.multiplicity, 5);
  EXPECT_EQ(term.count, 5);
}

TEST_F(ScriptedLoss, TakesOutputsThatAreNoTensor) {
  const Loss loss = make_loss(saved("def forward(self, output: Tuple[Tensor, Tensor], targets):\n"
                                    "    return (output[0] * output[1] - targets).sum()"),
                              Reduction::sum);
  const Tensor x = torch::full({3}, 2.0);
  const LossTerm term = loss(c10::ivalue::Tuple::create(x, x), torch::ones({3}), 3);
  EXPECT_EQ(number(term.value), 9);
  EXPECT_EQ(term.multiplicity, 1);
}

TEST_F(ScriptedLoss, TakesSeveralTargetsAsATuple) {
  const Loss loss =
      make_loss(saved("def forward(self, output: Tuple[Tensor, Tensor], targets: Tuple[Tensor, Tensor]):\n"
                      "    return ((output[0] - targets[0]) * (output[1] + targets[1])).sum()"),
                Reduction::sum);
  const Tensor x = torch::full({3}, 2.0);
  const auto targets = c10::ivalue::Tuple::create(torch::ones({3}), torch::full({3}, 5, torch::kLong));
  EXPECT_EQ(number(loss(c10::ivalue::Tuple::create(x, x), targets, 3).value), 21);
}

TEST_F(ScriptedLoss, HasNoOptions) {
  const auto file = saved("def forward(self, output, targets):\n    return output.sum()");
  expect_input_error([&] { make_loss(file, Reduction::mean, {"weight=1,2"}); },
                     {"'weight=1,2'", file, "takes none", "the module in it"});
}

TEST_F(ScriptedLoss, IsCalledWithTheOutputAloneWhereThereAreNoTargets) {
  const Loss loss = make_loss(saved("def forward(self, output):\n    return output.sum()"), Reduction::sum);
  EXPECT_EQ(number(loss(torch::ones({3}), std::nullopt, 3).value), 3);
}

TEST_F(ScriptedLoss, HasItsBuffersInTheDtypeOfTheOutput) {
  const Loss loss = make_loss(saved("def forward(self, output, targets):\n"
                                    "    return torch.matmul(output - targets, self.weight).sum()",
                                    /*with_weight=*/true),
                              Reduction::sum);
  const LossTerm term = loss(torch::ones({2, 3}, torch::kDouble), torch::zeros({2, 3}, torch::kDouble), 2);
  EXPECT_EQ(term.value.scalar_type(), torch::kDouble);
  EXPECT_EQ(number(term.value), 12);
}

TEST_F(ScriptedLoss, LeavesTargetsThatItWritesInto) {
  const Loss loss = make_loss(
      saved("def forward(self, output, targets):\n    return (output * targets.mul_(0.5)).sum()"), Reduction::sum);
  const Tensor targets = torch::ones({3});
  for (int call = 0; call < 2; ++call) EXPECT_EQ(number(loss(torch::ones({3}), targets, 3).value), 1.5);
  EXPECT_TRUE(targets.equal(torch::ones({3})));
}

TEST_F(ScriptedLoss, SaysWhatIsWrongWithItsResult) {
  const Tensor x = torch::ones({4, 2});
  const auto file = saved("def forward(self, output, targets):\n    return output - targets");
  expect_input_error([&] { make_loss(file, Reduction::mean)(x, x, 4); }, {file, "float32 of shape [4, 2]"});
  const auto tuple = saved("def forward(self, output, targets):\n    return output.sum(), targets");
  expect_input_error([&] { make_loss(tuple, Reduction::mean)(x, x, 4); }, {tuple, "a tuple of 2"});
}

TEST(LossOfSeveral, SaysWhichOutputsAndTargetsItWants) {
  const Tensor x = torch::ones({4, 3});
  const auto tuple = [](std::vector<c10::IValue> parts) { return c10::ivalue::Tuple::create(std::move(parts)); };
  const auto mean = Reduction::mean;
  expect_input_error([&] { make_loss("gaussian_nll", mean)(x, x, 4); }, {"tuple of 2", "mean and variance", "[4, 3]"});
  expect_input_error(
      [&] {
        make_loss("gaussian_nll", mean)(tuple({x, -x}), x, 4);
      },
      {"sample 0", "variance -1", "softplus"});
  expect_input_error([&] { make_loss("gaussian_nll", mean)(tuple({x, torch::ones({4, 2})}), x, 4); }, {"[4, 2]"});
  expect_input_error([&] { make_loss("triplet", mean)(tuple({x, x}), {}, 4); }, {"tuple of 3", "anchor"});
  expect_input_error([&] { make_loss("triplet", mean)(tuple({x, x, x}), x, 4); }, {"takes none"});
  expect_input_error([&] { make_loss("cosine_embedding", mean)(tuple({x, x}), x, 4); }, {"[4]"});
  expect_input_error([&] { make_loss("margin_ranking", mean)(tuple({x, torch::ones({4, 2})}), x, 4); }, {"one shape"});
}

TEST_F(ScriptedLoss, SaysWhichLineFailed) {
  const auto file = saved("def forward(self, output, targets):\n    return (output - targets.view([7])).sum()");
  expect_input_error([&] { make_loss(file, Reduction::mean)(torch::ones({4}), torch::ones({4}), 4); },
                     {file, "shape '[7]' is invalid for input of size 4", "targets"});
  const auto needs_targets = saved("def forward(self, output, targets):\n    return output.sum()");
  expect_input_error([&] { make_loss(needs_targets, Reduction::mean)(torch::ones({4}), std::nullopt, 4); },
                     {needs_targets, "missing value for argument 'targets'"});
}

}  // namespace
}  // namespace hessian_mpi::network
