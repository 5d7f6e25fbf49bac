// What the checks of derivatives say where evaluation itself is noisy: at minima, in float32, with casts inside. Random
// smooth networks, right and wrong ones; more of them, or of their samples, with the variables HESSIAN_MPI_NETWORKS and
// HESSIAN_MPI_SAMPLES.

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <string>

#include "differences.hpp"
#include "hessian_mpi/network/rounding.hpp"
#include "hessian_mpi/run/derivative_check.hpp"

namespace hessian_mpi::run {
namespace {

using torch::Tensor;

enum class Fault { none, detach, first_derivative, second_derivative };
constexpr Fault faults[] = {Fault::detach, Fault::first_derivative, Fault::second_derivative};

constexpr auto no_casts = torch::kFloat64;

// Where the gradient is of its usual size times `slope`, by a linear term; at_fit: where the loss is zero but for
// rounding; certain: where it is log(1 + 1e-20) or less for each sample. casts: to that dtype and back, as a norm and a
// loss of a language model.
struct Situation {
  const char* name;
  Precision precision;
  double slope = 1;
  bool at_fit = false;
  torch::Dtype casts = no_casts;
  bool certain = false;
};

constexpr Situation situations[] = {
    {"float64", Precision::float64},
    {"float64, gradient 1e-4", Precision::float64, 1e-4},
    {"float64, gradient 1e-8", Precision::float64, 1e-8},
    {"float64, gradient 0", Precision::float64, 0},
    {"float64, loss 0", Precision::float64, 1, true},
    {"float64 with casts", Precision::float64, 1, false, torch::kFloat32},
    {"float64 with casts, gradient 1e-4", Precision::float64, 1e-4, false, torch::kFloat32},
    {"float64 with casts, gradient 0", Precision::float64, 0, false, torch::kFloat32},
    {"float64 with casts, loss 0", Precision::float64, 1, true, torch::kFloat32},
    {"float32", Precision::float32},
    {"float32, gradient 1e-4", Precision::float32, 1e-4},
    {"float32, gradient 0", Precision::float32, 0},
    {"float32, loss 0", Precision::float32, 1, true},
    {"float32 with casts, gradient 0", Precision::float32, 0, false, torch::kFloat32},
    {"float32 with casts, loss 0", Precision::float32, 1, true, torch::kFloat32},
    {"float64 with half", Precision::float64, 1, false, torch::kHalf},
    {"float64 with half, gradient 1e-4", Precision::float64, 1e-4, false, torch::kHalf},
    {"float64 with half, loss 0", Precision::float64, 1, true, torch::kHalf},
    {"float64 with bfloat16", Precision::float64, 1, false, torch::kBFloat16},
    {"float32 with half", Precision::float32, 1, false, torch::kHalf},
    {"float32 with bfloat16, gradient 0", Precision::float32, 0, false, torch::kBFloat16},
    {"float64, certain", Precision::float64, 1, false, no_casts, true},
    {"float32, certain", Precision::float32, 1, false, no_casts, true},
};

// sin(x) whose derivative is right and has none itself.
struct Sine : torch::autograd::Function<Sine> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x) {
    context->saved_data["x"] = x.detach();
    return x.sin();
  }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list gradients) {
    return {gradients[0] * context->saved_data["x"].toTensor().cos()};
  }
};

// A network of two hidden layers with its loss.
class RandomNetwork final : public network::Model {
 public:
  RandomNetwork(std::uint64_t seed, const Situation& situation, Fault fault, std::int64_t samples)
      : seed_(seed), casts_(situation.casts), at_fit_(situation.at_fit), certain_(situation.certain), fault_(fault) {
    torch::manual_seed(seed);
    const auto options = torch::dtype(torch::kFloat64);
    const std::int64_t in = 2 + static_cast<std::int64_t>(seed % 4);
    const std::int64_t wide = 3 + static_cast<std::int64_t>(seed % 5);
    const std::int64_t out = 2 + static_cast<std::int64_t>(seed % 3);
    x_ = torch::randn({samples, in}, options).to(torch::kFloat32);
    for (const auto& shape : {std::vector{wide, in}, std::vector{wide}, std::vector{wide, wide}, std::vector{wide},
                              std::vector{out, wide}, std::vector{out}}) {
      parameters_.push_back(
          torch::randn(shape, options).to(torch::kFloat32).div_(shape.size() == 2 ? std::sqrt(shape[1]) : 1.0));
    }
    targets_ = torch::randn({samples, out}, options).to(torch::kFloat32);
    convert(situation.precision == Precision::float32 ? torch::kFloat32 : torch::kFloat64, torch::kCPU);
    if (at_fit_ || certain_) targets_ = output().detach().clone();
    if (certain_) {
      const auto two = std::get<0>(targets_.topk(2, 1));
      scale_ = 46 / (two.select(1, 0) - two.select(1, 1)).min().item<double>();
    }
    if (situation.slope == 1) return;
    const auto gradient = torch::autograd::grad({loss()}, parameters_, {}, false, false, /*allow_unused=*/true);
    for (std::size_t p = 0; p < gradient.size(); ++p) {
      const auto g = gradient[p].defined() ? gradient[p] : torch::zeros_like(parameters_[p]);
      tilt_.push_back(g.detach() * (1 - situation.slope));
    }
  }

  std::string format() const override { return "random"; }
  std::vector<network::NamedTensor> parameters() const override {
    std::vector<network::NamedTensor> all;
    for (std::size_t p = 0; p < parameters_.size(); ++p) all.push_back({std::to_string(p), parameters_[p]});
    return all;
  }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype dtype, torch::Device) override {
    for (auto& p : parameters_) p = p.detach().to(dtype).requires_grad_();
    for (auto* fixed : {&x_, &targets_}) *fixed = fixed->to(dtype);
    for (auto& t : tilt_) t = t.to(dtype);
  }
  void set_mode(Mode) override {}
  // All that it is made of stays what the casts have made of it.
  void widen() { widened_ = true; }
  c10::IValue forward(const std::vector<c10::IValue>&) override {
    auto value = loss();
    for (std::size_t p = 0; p < tilt_.size(); ++p) value = value - (tilt_[p] * parameters_[p]).sum();
    return value;
  }

 private:
  Tensor activated(const Tensor& x, std::uint64_t which) const {
    switch (which % 5) {
      case 0:
        return x.tanh();
      case 1:
        return torch::softplus(x);
      case 2:
        return torch::silu(x);
      case 3:
        return torch::gelu(x, "tanh");
      default:
        return x.sigmoid();
    }
  }
  Tensor narrowed(const Tensor& x) const { return widened_ ? x : x.to(casts_); }
  Tensor output() const {
    auto h = activated(torch::linear(x_, parameters_[0], parameters_[1]), seed_);
    if (casts_ != no_casts) {
      const auto narrow = narrowed(h);
      h = (narrow * torch::rsqrt(narrow.square().mean(-1, true) + 1e-6)).to(h.dtype());
    }
    if (fault_ == Fault::first_derivative) h = 0.4 * h + (0.6 * h).detach();
    h = torch::linear(h, parameters_[2], parameters_[3]);
    h = fault_ == Fault::second_derivative ? Sine::apply(h) : activated(h, seed_ / 5);
    if (fault_ == Fault::detach) h = h * (1 + 4 * h.detach());
    return scale_ * torch::linear(h, parameters_[4], parameters_[5]);
  }
  Tensor loss() const {
    const auto y = casts_ != no_casts ? narrowed(output()) : output();
    if (certain_ || (!at_fit_ && seed_ % 2 == 0)) return torch::cross_entropy_loss(y, targets_.argmax(1));
    return torch::mse_loss(y, targets_.to(y.dtype()));
  }

  std::uint64_t seed_;
  torch::Dtype casts_;
  bool at_fit_;
  bool certain_;
  bool widened_ = false;
  double scale_ = 1;
  Fault fault_;
  Tensor x_;
  Tensor targets_;
  std::vector<Tensor> parameters_;
  std::vector<Tensor> tilt_;
};

network::Problem problem_of(std::uint64_t seed, const Situation& situation, Fault fault, Precision precision,
                            std::int64_t samples, bool widened = false) {
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.precision = precision;
  auto random = std::make_unique<RandomNetwork>(seed, situation, fault, samples);
  if (widened) random->widen();
  return {std::move(random), network::Data{{torch::zeros({1, 1})}, {}}, settings};
}

// Where autograd has nothing, zeros.
Tensor flattened(std::vector<Tensor> parts, const network::Problem& problem) {
  for (std::size_t p = 0; p < parts.size(); ++p) {
    if (!parts[p].defined()) parts[p] = torch::zeros_like(problem.parameters()[p]);
    parts[p] = parts[p].reshape(-1);
  }
  return torch::cat(parts);
}

// H by double-backward, in the problem's precision.
Tensor hessian_of(const network::Problem& problem) {
  const auto gradient = flattened(problem.gradient(0, true), problem);
  std::vector<Tensor> rows;
  for (std::int64_t k = 0; k < gradient.numel(); ++k) {
    rows.push_back(
        flattened(torch::autograd::grad({gradient[k]}, problem.parameters(), {}, true, false, true), problem));
  }
  return torch::stack(rows).to(torch::kFloat64);
}

DifferenceFigures figures_of(std::uint64_t seed, const Situation& situation, Fault fault, std::int64_t samples) {
  auto own = problem_of(seed, situation, fault, situation.precision, samples);
  auto twin = problem_of(seed, situation, fault, Precision::float64, samples, /*widened=*/true);
  const auto point = network::evaluate(own);
  const auto n = own.index().size();
  std::vector<std::int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  const matrix::MatrixShape shape{matrix::BlockGrid(n, 8 * n), n, situation.precision};
  auto lines = random_lines(point.gradient, shape, all);
  const auto hessian = hessian_of(own);
  for (auto& some : lines) {
    for (auto& v : some.directions) {
      const auto product = hessian.mv(torch::from_blob(v.data(), {n}, torch::kFloat64));
      some.products.emplace_back(product.const_data_ptr<double>(), product.const_data_ptr<double>() + n);
    }
  }
  auto with_casts = problem_of(seed, situation, fault, Precision::float64, samples);
  const auto same = [&]() -> network::Problem& { return own; };
  const auto casting = [&]() -> network::Problem& { return with_casts; };
  const double epsilon = network::coarsest_epsilon(own);
  const bool has_casts = epsilon > epsilon_of(situation.precision);
  return check_differences({twin, same, casting, epsilon, has_casts}, Matrix::hessian, point, lines, 0,
                           file::tolerances_of(situation.precision).difference);
}

std::string text_of(const DifferenceFigures& found) {
  const auto of = [](const file::CheckFigure& check) {
    return text(name_of(check.outcome), ' ', check.error, " (at most ", check.tolerance, ')');
  };
  return text("gradient ", of(found.gradient), ", difference ", of(found.hessian));
}

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const wanted = std::getenv(variable);
  return wanted == nullptr ? otherwise : std::stoull(wanted);
}
std::uint64_t networks() {
  return number_from("HESSIAN_MPI_NETWORKS", 2);
}
std::int64_t samples() {
  return static_cast<std::int64_t>(number_from("HESSIAN_MPI_SAMPLES", 20));
}

bool is_alarm(const file::CheckFigure& check) {
  return check.outcome != file::CheckOutcome::passed && check.outcome != file::CheckOutcome::rounding;
}

TEST(NoisyPoints, RaiseNoAlarmWhereTheNetworkIsRight) {
  for (const auto& situation : situations) {
    std::uint64_t told = 0;
    for (std::uint64_t seed = 0; seed < networks(); ++seed) {
      const auto found = figures_of(seed, situation, Fault::none, samples());
      EXPECT_FALSE(is_alarm(found.gradient) || is_alarm(found.hessian))
          << situation.name << ", network " << seed << ": " << text_of(found);
      told += found.hessian.outcome == file::CheckOutcome::passed ? 1U : 0U;
    }
    if (situation.certain) continue;
    EXPECT_GE(told, networks() * 9 / 10) << situation.name << ": too many are too near to rounding";
  }
}

TEST(NoisyPoints, HideNoWrongNetwork) {
  for (const auto& situation : situations) {
    for (const auto fault : faults) {
      // What is multiplied by the residual, which is zero.
      if (fault == Fault::second_derivative && (situation.at_fit || situation.certain)) continue;
      for (std::uint64_t seed = 0; seed < (networks() + 1) / 2; ++seed) {
        const auto found = figures_of(seed, situation, fault, samples());
        // Where rounding takes nearly all it may be too near to tell, but nothing passes.
        const auto least = situation.certain ? file::CheckOutcome::rounding : file::CheckOutcome::failed;
        EXPECT_GE(std::max(found.gradient.outcome, found.hessian.outcome), least)
            << situation.name << ", fault " << static_cast<int>(fault) << ", network " << seed << ": "
            << text_of(found);
      }
    }
  }
}

}  // namespace
}  // namespace hessian_mpi::run
