#include "hessian_mpi/network/problem.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <functional>
#include <limits>

#include "closed_form_model.hpp"
#include "expect_error.hpp"
#include "hessian_mpi/network/kernels.hpp"

namespace hessian_mpi::network {
namespace {

Data data_of(std::int64_t samples) {
  return {{torch::arange(2 * samples).to(torch::kFloat).view({samples, 2}).div(7)}, {}};
}

Problem closed_form(const ProblemSettings& settings, std::int64_t samples = 5) {
  return {std::make_unique<ClosedFormModel>(), data_of(samples), settings};
}

ProblemSettings settings_with(Reduction reduction, std::optional<std::int64_t> batch_size) {
  ProblemSettings settings;
  settings.loss = "output";
  settings.reduction = reduction;
  settings.batch_size = batch_size;
  settings.precision = Precision::float64;
  return settings;
}

// Answers with what a test wants of it.
class FakeModel final : public Model {
 public:
  using Answer = std::function<c10::IValue(const torch::Tensor& weight)>;
  FakeModel(torch::Tensor weight, Answer answer, std::string name = "weight")
      : name_(std::move(name)), weight_(std::move(weight)), answer_(std::move(answer)) {}
  std::string format() const override { return "fake"; }
  std::vector<NamedTensor> parameters() const override { return {{name_, weight_}}; }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype dtype, torch::Device) override {
    weight_ = weight_.detach().to(dtype).set_requires_grad(weight_.requires_grad());
  }
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>&) override { return answer_(weight_); }

 private:
  std::string name_;
  torch::Tensor weight_;
  Answer answer_;
};

class WithoutParameters final : public Model {
 public:
  std::string format() const override { return "fake"; }
  std::vector<NamedTensor> parameters() const override { return {}; }
  std::vector<std::string> input_names() const override { return {"x", "y"}; }
  void convert(torch::Dtype, torch::Device) override {}
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override {
    return arguments.front().toTensor().cosh().sum();
  }
};

Problem fake(torch::Tensor weight, FakeModel::Answer answer, ProblemSettings settings = {}) {
  settings.loss = "output";
  return {std::make_unique<FakeModel>(std::move(weight), std::move(answer)), data_of(3), settings};
}

torch::Tensor weight() {
  return torch::full({2}, 0.5).requires_grad_();
}

TEST(Problem, OrdersParametersAsTheModelDoes) {
  const auto problem = closed_form(settings_with(Reduction::mean, std::nullopt));
  ASSERT_EQ(problem.index().entries().size(), 4U);
  EXPECT_EQ(problem.index().size(), closed_form_size);
  EXPECT_EQ(problem.index().entries()[1].name, "b");
  EXPECT_EQ(problem.index().entries()[1].offset, 4);
  EXPECT_EQ(problem.flat_parameters(), (std::vector<double>{0.5, -1, 2, 0.25, 1.5, -0.75, 1, 1, 1, 4}));
}

TEST(Problem, LossAndGradientAreTheSameInBatchesOfAnySize) {
  const auto whole = evaluate(closed_form(settings_with(Reduction::mean, std::nullopt)));
  for (const std::int64_t batch_size : {1, 2, 3, 4}) {
    const auto problem = closed_form(settings_with(Reduction::mean, batch_size));
    EXPECT_EQ(problem.batches(), (5 + batch_size - 1) / batch_size);
    const auto parts = evaluate(problem);
    EXPECT_NEAR(parts.loss, whole.loss, 1e-13);
    for (std::size_t k = 0; k < whole.gradient.size(); ++k) EXPECT_NEAR(parts.gradient[k], whole.gradient[k], 1e-13);
  }
}

// Squares of residuals w.x_i - i, and what is made of those of a batch.
class Regression final : public Model {
 public:
  using Joined = std::function<torch::Tensor(const torch::Tensor& squares)>;
  explicit Regression(Joined joined, double at = 0.5)
      : weight_(torch::tensor({at, 2 * (1 - at)}, torch::kFloat64).requires_grad_()), joined_(std::move(joined)) {}
  std::string format() const override { return "regression"; }
  std::vector<NamedTensor> parameters() const override { return {{"weight", weight_}}; }
  std::vector<std::string> input_names() const override { return {"x", "offset"}; }
  void convert(torch::Dtype dtype, torch::Device) override { weight_ = weight_.detach().to(dtype).requires_grad_(); }
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override {
    const auto x = arguments[0].toTensor();
    auto residuals = x.matmul(weight_) - x.select(1, 0);
    if (arguments.size() > 1) residuals = residuals + arguments[1].toTensor().sum();
    return joined_(residuals.square());
  }

 private:
  torch::Tensor weight_;
  Joined joined_;
};

Problem regression(const Regression::Joined& joined, const ProblemSettings& settings, double at = 0.5) {
  return {std::make_unique<Regression>(joined, at), data_of(5), settings};
}

const Regression::Joined mean_of = [](const torch::Tensor& squares) { return squares.mean(); };
const Regression::Joined sum_of = [](const torch::Tensor& squares) { return squares.sum(); };

TEST(Problem, SumIsTheSameInBatchesOfAnySize) {
  const auto whole = evaluate(regression(sum_of, settings_with(Reduction::sum, std::nullopt)));
  for (const std::int64_t batch_size : {1, 2, 3, 4}) {
    const auto parts = evaluate(regression(sum_of, settings_with(Reduction::sum, batch_size)));
    EXPECT_NEAR(parts.loss, whole.loss, 1e-12);
    for (std::size_t k = 0; k < 2; ++k) EXPECT_NEAR(parts.gradient[k], whole.gradient[k], 1e-12);
  }
}

TEST(Problem, RefusesALossThatIsNotTheReductionItIsTakenFor) {
  for (const std::optional<std::int64_t> batch_size : {std::optional<std::int64_t>(), std::optional<std::int64_t>(2)}) {
    expect_input_error([&] { regression(sum_of, settings_with(Reduction::mean, batch_size)); },
                       {"the loss that the model returns adds up its samples", "write --reduction sum"});
    expect_input_error([&] { regression(mean_of, settings_with(Reduction::sum, batch_size)); },
                       {"is the mean of its samples", "write --reduction mean"});
  }
}

TEST(Problem, RefusesBatchesOfALossThatIsNeitherMeanNorSum) {
  const auto root = [](const torch::Tensor& squares) { return squares.mean().sqrt(); };
  EXPECT_NO_THROW(regression(root, settings_with(Reduction::mean, std::nullopt)));
  EXPECT_NO_THROW(regression(root, settings_with(Reduction::sum, std::nullopt)));
  expect_input_error([&] { regression(root, settings_with(Reduction::mean, 2)); },
                     {"neither the mean nor the sum", "leave out --batch-size"});
}

TEST(Problem, TellsAMeanFromASumWhereTheLossIsZero) {
  constexpr double solution = 1;
  EXPECT_EQ(evaluate(regression(mean_of, settings_with(Reduction::mean, 2), solution)).loss, 0);
  expect_input_error([] { regression(sum_of, settings_with(Reduction::mean, 2), solution); }, {"adds up"});
}

TEST(Problem, WholeInputsAreNotCutIntoSamples) {
  auto data = data_of(5);
  data.inputs.push_back(torch::tensor({0.25, 0.5, 0.75}));
  const auto make = [&](std::optional<std::int64_t> batch_size, const std::vector<std::string>& whole) {
    auto settings = settings_with(Reduction::mean, batch_size);
    settings.whole = whole;
    return Problem(std::make_unique<Regression>(mean_of), data, settings);
  };
  const auto expected = evaluate(make(std::nullopt, {"offset"}));
  for (const std::int64_t batch_size : {1, 2, 5}) {
    const auto problem = make(batch_size, {"offset"});
    EXPECT_EQ(problem.samples(), 5);
    EXPECT_NEAR(evaluate(problem).loss, expected.loss, 1e-12);
  }
  const auto all = make(std::nullopt, {});
  EXPECT_EQ(all.samples(), 1) << "all are whole where their first dimensions differ";
  EXPECT_NEAR(evaluate(all).loss, expected.loss, 1e-12);
  expect_input_error([&] { make(2, {}); }, {"inputs 5, 3", "--whole"});
  expect_input_error([&] { make(2, {"shift"}); }, {"--whole 'shift'", "x, offset"});
}

Problem by_inputs(const Data& data, const std::vector<std::string>& names,
                  std::optional<std::int64_t> batch_size = {}) {
  auto settings = settings_with(Reduction::mean, batch_size);
  settings.inputs = names;
  if (batch_size) settings.whole = {"offset"};
  return {std::make_unique<Regression>(mean_of), data, settings};
}

// r_i = x_i1 - x_i0 / 2 + the sum of all offsets, L = (1 / 5) sum_i r_i^2
TEST(Problem, ByInputsHasTheGradientByAllOfThem) {
  auto data = data_of(5);
  data.inputs.push_back(torch::linspace(-1, 2, 5));
  for (const std::optional<std::int64_t> batch_size : {std::optional<std::int64_t>(), std::optional<std::int64_t>(2)}) {
    const auto problem = by_inputs(data, {}, batch_size);
    EXPECT_TRUE(problem.by_inputs());
    EXPECT_EQ(problem.samples(), batch_size ? 5 : 1);
    EXPECT_EQ(problem.index().describe(3), "x[1, 1]");
    EXPECT_EQ(problem.index().describe(10), "offset[0]");
    const auto gradient = evaluate(problem).gradient;
    ASSERT_EQ(gradient.size(), 15U);
    double by_offset = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      const auto x_0 = static_cast<double>(2 * i) / 7;
      const auto x_1 = static_cast<double>(2 * i + 1) / 7;
      const double by_residual = 0.4 * (x_1 - x_0 / 2 + 2.5);
      EXPECT_NEAR(gradient[2 * i], -by_residual / 2, 1e-6);
      EXPECT_NEAR(gradient[2 * i + 1], by_residual, 1e-6);
      by_offset += by_residual;
    }
    for (std::size_t i = 10; i < 15; ++i) EXPECT_NEAR(gradient[i], by_offset, 1e-6);
  }
}

TEST(Problem, ByInputsIsOfThoseThatAreNamed) {
  auto data = data_of(5);
  data.inputs.push_back(torch::linspace(-1, 1, 5));
  const auto given = data.inputs.front().clone();
  auto problem = by_inputs(data, {"OFFSET"});
  ASSERT_EQ(problem.index().entries().size(), 1U);
  EXPECT_EQ(problem.index().entries()[0].name, "offset");
  const auto before = evaluate(problem).loss;
  problem.set_parameters({1, 2, 3, 4, 5});
  EXPECT_NE(evaluate(problem).loss, before);
  EXPECT_EQ(problem.flat_parameters(), (std::vector<double>{1, 2, 3, 4, 5}));
  EXPECT_TRUE(torch::equal(data.inputs.front(), given)) << "the caller's data stay as they are";
}

TEST(Problem, ByInputsRefusesWhatHasNoDerivative) {
  auto data = data_of(5);
  data.inputs.push_back(torch::arange(5));
  expect_input_error([&] { by_inputs(data, {"shift"}); }, {"--with-respect-to inputs: 'shift'", "x, offset"});
  expect_input_error([&] { by_inputs(data, {"offset"}); }, {"'offset' holds int64", "floating-point"});
  EXPECT_EQ(by_inputs(data, {}).index().size(), 10) << "all floating-point ones";
  data.inputs.front()[2][1] = std::numeric_limits<float>::infinity();
  expect_input_error([&] { by_inputs(data, {"x"}); }, {"'x' holds infinity", "[2, 1]"});
  expect_input_error(
      [&] {
        by_inputs({{torch::arange(5), torch::arange(5)}, {}}, {});
      },
      {"no floating-point input", "'x' holds int64"});
}

TEST(Problem, ByInputsTakesTheirDtypeWhereTheModelHasNoParameters) {
  const auto make = [](const Data& data) {
    auto settings = settings_with(Reduction::mean, {});
    settings.precision.reset();
    settings.inputs.emplace();
    return Problem(std::make_unique<WithoutParameters>(), data, settings);
  };
  EXPECT_EQ(make(data_of(3)).precision(), Precision::float32);
  EXPECT_EQ(make(data_of(3).converted(torch::kDouble)).precision(), Precision::float64);
  expect_input_error(
      [&] {
        make({{torch::ones({3, 2}), torch::ones({3}, torch::kDouble)}, {}});
      },
      {"the inputs have several dtypes", "'x' is float32", "'y' is float64", "--dtype"});
}

TEST(Problem, GradientAgreesWithDifferencesOfTheLoss) {
  auto problem = closed_form(settings_with(Reduction::mean, 2));
  const auto theta = problem.flat_parameters();
  const auto gradient = evaluate(problem).gradient;
  constexpr double step = 1e-5;
  for (std::size_t k = 0; k < theta.size(); ++k) {
    auto there = theta;
    there[k] += step;
    problem.set_parameters(there);
    const double ahead = evaluate(problem).loss;
    there[k] -= 2 * step;
    problem.set_parameters(there);
    EXPECT_NEAR(gradient[k], (ahead - evaluate(problem).loss) / (2 * step), 1e-8) << "parameter " << k;
  }
  problem.set_parameters(theta);
  EXPECT_EQ(evaluate(problem).gradient, gradient);
}

// c of the closed form takes no part in the data's loss, and d takes part linearly.
TEST(Problem, L2TermIsInTheValueAndTheGradientOnceWhateverTheBatches) {
  for (const auto reduction : {Reduction::mean, Reduction::sum}) {
    for (const std::int64_t batch_size : {2, 5}) {
      auto settings = settings_with(reduction, batch_size);
      const auto make = [&] { return regression(reduction == Reduction::mean ? mean_of : sum_of, settings); };
      const auto plain = evaluate(make());
      settings.l2 = 0.3;
      const auto problem = make();
      const auto theta = problem.flat_parameters();
      const auto found = evaluate(problem);
      double squares = 0;
      for (std::size_t k = 0; k < theta.size(); ++k) {
        squares += theta[k] * theta[k];
        EXPECT_NEAR(found.gradient[k], plain.gradient[k] + 0.3 * theta[k], 1e-12) << "parameter " << k;
      }
      EXPECT_NEAR(found.loss, plain.loss + 0.15 * squares, 1e-12);
      EXPECT_EQ(problem.l2(), 0.3);
      EXPECT_NEAR(problem.l2_term(), 0.15 * squares, 1e-12);
    }
  }
}

TEST(Problem, L2TermMovesWithTheParameters) {
  auto settings = settings_with(Reduction::mean, std::nullopt);
  settings.l2 = 2;
  auto problem = closed_form(settings);
  const std::vector<double> ones(closed_form_size, 1.0);
  problem.set_parameters(ones);
  EXPECT_NEAR(problem.l2_term(), closed_form_size, 1e-12);
}

TEST(Problem, PatternsChangeNoValueOfTheL2Term) {
  auto settings = settings_with(Reduction::mean, std::nullopt);
  settings.l2 = 0.3;
  const auto all = evaluate(closed_form(settings));
  settings.patterns = {"[bd]"};
  const auto some = evaluate(closed_form(settings));
  EXPECT_NEAR(some.loss, all.loss, 1e-12);
  EXPECT_NEAR(some.gradient[0], all.gradient[4], 1e-12);
}

TEST(Problem, GivesTheLossItsOptions) {
  ProblemSettings settings;
  settings.loss = "cross_entropy";
  settings.loss_options = {"label_smoothing=0.50", "weight=1,3"};
  const auto answer = [](const auto& w) { return w.expand({3, 2}); };
  const Data data{{torch::zeros({3, 1})}, {torch::tensor({0, 1, 1})}};
  const Problem problem(std::make_unique<FakeModel>(weight(), answer), data, settings);
  EXPECT_EQ(problem.loss_options(), "label_smoothing=0.5 weight=1,3");
  // Both classes have the score 0.5, so that every log probability is -ln 2: by half the weights of the targets, whose
  // sum the mean is divided by, and by a quarter of all weights for each of three samples.
  EXPECT_NEAR(evaluate(problem).loss, std::log(2.0) * (0.5 + 0.25 * 3 * 4 / 7), 1e-6);
  settings.loss_options = {"beta=1"};
  expect_input_error([&] { Problem(std::make_unique<FakeModel>(weight(), answer), data, settings); }, {"'beta=1'"});
}

TEST(Problem, PatternsChooseParameters) {
  auto settings = settings_with(Reduction::mean, std::nullopt);
  settings.patterns = {"[bd]"};
  const auto problem = closed_form(settings);
  ASSERT_EQ(problem.index().entries().size(), 2U);
  EXPECT_EQ(problem.index().entries()[0].name, "b");
  EXPECT_EQ(problem.index().entries()[1].name, "d");
  EXPECT_EQ(problem.index().size(), 3);
}

TEST(Problem, APatternThatFitsNothingIsNamed) {
  auto settings = settings_with(Reduction::mean, std::nullopt);
  settings.patterns = {"a", "layer*"};
  expect_input_error([&] { closed_form(settings); }, {"--parameters", "'layer*'", "a, b, c, d"});
}

TEST(Problem, NeedsATrainableParameter) {
  expect_input_error([] { fake(torch::ones({2}), [](const auto& w) { return w.sum(); }); }, {"requires_grad"});
}

TEST(Problem, RefusesParametersWithoutSecondDerivatives) {
  expect_input_error(
      [] { fake(torch::ones({2}, torch::kHalf).requires_grad_(), [](const auto& w) { return w.sum(); }); },
      {"float16", "--dtype float32"});
}

TEST(Problem, RefusesALossThatIsNoScalarOrNotFinite) {
  expect_input_error([] { evaluate(fake(weight(), [](const auto& w) { return w * 2; })); }, {"scalar"});
  expect_input_error([] { evaluate(fake(weight(), [](const auto& w) { return w.sum() / 0; })); }, {"finite"});
}

TEST(Problem, RefusesParametersThatAreNotFinite) {
  const auto holding = [](double value, double other) {
    auto w = torch::full({2, 3}, 0.5);
    w[0][1] = value;
    w[1][2] = other;
    return w;
  };
  const auto sum = [](const auto& w) { return w.nansum(); };
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  expect_input_error([&] { fake(holding(nan, infinity).requires_grad_(), sum); },
                     {"NaN or infinity", "'weight' in 2 of 6 values (at [0, 1], [1, 2])"});
  EXPECT_NO_THROW(fake(holding(1, 2).requires_grad_(), sum));
}

// What is held fixed may be a mask.
TEST(Problem, FrozenParametersMayBeInfinite) {
  const auto with_frozen = [](double value) {
    class TwoParameters final : public Model {
     public:
      explicit TwoParameters(double value) : frozen_(torch::full({2}, value)) {}
      std::string format() const override { return "fake"; }
      std::vector<NamedTensor> parameters() const override { return {{"frozen", frozen_}, {"weight", weight_}}; }
      std::vector<std::string> input_names() const override { return {"x"}; }
      void convert(torch::Dtype, torch::Device) override {}
      void set_mode(Mode) override {}
      c10::IValue forward(const std::vector<c10::IValue>&) override { return (weight_ * frozen_.exp()).sum(); }

     private:
      torch::Tensor frozen_;
      torch::Tensor weight_ = torch::ones({2}).requires_grad_();
    };
    ProblemSettings settings;
    settings.loss = "output";
    return evaluate(Problem(std::make_unique<TwoParameters>(value), data_of(3), settings)).loss;
  };
  EXPECT_EQ(with_frozen(-std::numeric_limits<double>::infinity()), 0.0);
  expect_input_error([&] { with_frozen(std::nan("")); }, {"NaN or infinity", "'frozen' in 2 of 2 values"});
}

TEST(Problem, RefusesNamesThatCannotBeWrittenOrShown) {
  const auto named = [](const std::string& name) {
    ProblemSettings settings;
    settings.loss = "output";
    const auto sum = [](const auto& w) { return w.sum(); };
    return Problem(std::make_unique<FakeModel>(weight(), sum, name), data_of(3), settings).index().entries()[0].name;
  };
  EXPECT_EQ(named("layer.\xc3\xa9"), "layer.\xc3\xa9");
  EXPECT_EQ(named(""), "");
  expect_input_error([&] { named("a\nb\x1b[2J"); }, {"'a b [2J'", "control characters"});
  expect_input_error([&] { named(std::string("a\0b", 3)); }, {"'a b'", "control characters"});
  expect_input_error([&] { named("a\xff"); }, {"'a?'", "not UTF-8"});
  expect_input_error([&] { named(std::string(5000, 'a')); }, {"5000 bytes"});
}

TEST(Problem, PointsAtInfinityInTheDataWhereTheLossIsNotFinite) {
  const auto loss_of = [](const torch::Tensor& x, bool usable) {
    const auto answer = [usable](const auto& w) -> c10::IValue { return usable ? w.sum() : w.sum() / 0; };
    ProblemSettings settings;
    settings.loss = "output";
    return evaluate(Problem(std::make_unique<FakeModel>(weight(), answer), {{x}, {}}, settings)).loss;
  };
  auto infinite = torch::zeros({3, 2});
  infinite[2][1] = std::numeric_limits<double>::infinity();
  expect_input_error([&] { loss_of(infinite, false); },
                     {"not a finite number", "inputs", "infinity in 1 of 6 values (at [2, 1])"});
  EXPECT_EQ(loss_of(infinite, true), 1.0);
}

TEST(Problem, SaysInWhichBatchTheModelThrew) {
  ProblemSettings settings;
  settings.batch_size = 2;
  int calls = 0;
  const auto answer = [&calls](const torch::Tensor& w) -> c10::IValue {
    if (++calls % 2 == 0) throw std::runtime_error("no such word");
    return w.sum();
  };
  expect_input_error([&] { evaluate(fake(weight(), answer, settings)); }, {"no such word", "samples 2 to 2"});
}

TEST(Problem, KnowsConvolutionsOfSingleChannels) {
  const auto with_weight = [](std::vector<std::int64_t> shape) {
    return fake(torch::ones(shape).requires_grad_(), [](const auto& w) { return w.sum(); }).convolves_single_channels();
  };
  EXPECT_TRUE(with_weight({32, 1, 3, 3}));
  EXPECT_FALSE(with_weight({32, 3, 3, 3}));
  EXPECT_FALSE(with_weight({32, 1}));
}

TEST(Problem, RandomLayersDrawTheSameNumbersInEveryForward) {
  const auto problem = fake(weight(), [](const auto& w) { return (torch::rand({2}) * w).sum(); });
  EXPECT_EQ(evaluate(problem).loss, evaluate(problem).loss);
  ProblemSettings other;
  other.seed = 1;
  EXPECT_NE(evaluate(problem).loss,
            evaluate(fake(
                         weight(), [](const auto& w) { return (torch::rand({2}) * w).sum(); }, other))
                .loss);
}

TEST(Probe, AcceptsWhatCanBeDerivedTwice) {
  EXPECT_TRUE(probe_second_derivatives(closed_form(settings_with(Reduction::mean, std::nullopt))).empty());
}

TEST(Probe, NamesWhatHasNoSecondDerivative) {
  const bool before = at::globalContext().userEnabledMkldnn();
  // segment_reduce is derived once by a kernel of its own.
  const auto answer = [](const torch::Tensor& w) {
    const auto sums = torch::segment_reduce(w.square(), "sum", torch::tensor({1, 1}, torch::kLong));
    return sums.square().sum();
  };
  expect_input_error([&] { probe_second_derivatives(fake(weight(), answer)); },
                     {"second derivative", "segment_reduce"});
  at::globalContext().setUserEnabledMkldnn(before);
}

}  // namespace
}  // namespace hessian_mpi::network
