// Gauss-Newton and Fisher matrices of a linear network, which can be written down, row by row.

#include <gtest/gtest.h>
#include <torch/types.h>

#include "hessian_mpi/engines/jacobian_rows.hpp"
#include "hessian_mpi/engines/output_map.hpp"
#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::engines {
namespace {

constexpr std::int64_t samples = 5;
constexpr std::int64_t outputs = 2;
constexpr std::int64_t inputs = 3;
constexpr std::int64_t n = outputs * inputs;

torch::Tensor inputs_of_samples() {
  return torch::tensor({{1.0, 2.0, -1.0}, {-1.0, 0.5, 0.25}, {2.0, -3.0, 1.0}, {0.0, 1.0, 0.5}, {1.0, -1.5, 2.0}},
                       torch::kFloat64);
}
torch::Tensor targets_of_samples() {
  return torch::tensor({{0.5, 1.0}, {-1.0, 0.0}, {2.0, 0.25}, {1.0, -1.0}, {0.0, 3.0}}, torch::kFloat64);
}
torch::Tensor weight() {
  return torch::tensor({{0.5, -0.25, 1.0}, {1.5, 0.75, -0.5}}, torch::kFloat64);
}

/// y = x W^T.
class Linear final : public network::Model {
 public:
  std::string format() const override { return "linear"; }
  std::vector<network::NamedTensor> parameters() const override { return {{"weight", weight_}}; }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype dtype, torch::Device) override { weight_ = weight_.detach().to(dtype).requires_grad_(); }
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override {
    return arguments.front().toTensor().matmul(weight_.t());
  }

 private:
  torch::Tensor weight_ = weight().requires_grad_();
};

network::Problem problem_with(Reduction reduction, std::optional<std::int64_t> batch_size = {}) {
  network::ProblemSettings settings;
  settings.loss = "mse";
  settings.reduction = reduction;
  settings.batch_size = batch_size;
  return {std::make_unique<Linear>(), {{inputs_of_samples()}, {targets_of_samples()}}, settings};
}

using Numbers = std::vector<double>;

// Of a linear network with squared errors the Hessian and the Gauss-Newton matrix are the same: of entries (p, q) and
// (r, s) of the weight, 2 delta_pr sum_k x_kq x_ks, divided by all outputs for a mean.
Numbers gauss_newton(Reduction reduction) {
  const auto x = inputs_of_samples();
  const auto squares = x.t().matmul(x);
  const double weight_of_terms = reduction == Reduction::mean ? 2.0 / (samples * outputs) : 2.0;
  Numbers matrix(n * n, 0.0);
  for (std::int64_t p = 0; p < outputs; ++p) {
    for (std::int64_t q = 0; q < inputs; ++q) {
      for (std::int64_t s = 0; s < inputs; ++s) {
        matrix[static_cast<std::size_t>((p * inputs + q) * n + p * inputs + s)] =
            weight_of_terms * squares[q][s].item<double>();
      }
    }
  }
  return matrix;
}

// The gradient of a sample's own loss is 2 r x^T, divided by its outputs for a mean.
Numbers fisher(Reduction reduction) {
  const auto x = inputs_of_samples();
  const auto residual = x.matmul(weight().t()) - targets_of_samples();
  Numbers matrix(n * n, 0.0);
  for (std::int64_t k = 0; k < samples; ++k) {
    auto gradient = (2 * residual[k].unsqueeze(1) * x[k].unsqueeze(0)).reshape(-1);
    if (reduction == Reduction::mean) gradient = gradient / outputs;
    const auto product = torch::outer(gradient, gradient) / (reduction == Reduction::mean ? samples : 1);
    for (std::int64_t e = 0; e < n * n; ++e) {
      matrix[static_cast<std::size_t>(e)] += product.reshape(-1)[e].item<double>();
    }
  }
  return matrix;
}

Numbers all_rows(Engine& engine) {
  Numbers numbers(n * n, std::nan(""));
  double advanced = 0;
  engine.compute({0, n}, {0, n}, Precision::float64, numbers.data(), [&](double done) { advanced += done; });
  EXPECT_NEAR(advanced, static_cast<double>(n), 1e-9);
  return numbers;
}

void expect_near(const Numbers& found, const Numbers& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_NEAR(found[k], expected[k], 1e-12) << "number " << k;
}

TEST(Jacobian, MatricesOfALinearNetworkAreTheClosedForms) {
  for (const auto reduction : {Reduction::mean, Reduction::sum}) {
    for (const std::int64_t batch_size : {1, 2, 5}) {
      const auto problem = problem_with(reduction, batch_size);
      for (const auto matrix : {Matrix::ggn, Matrix::fisher}) {
        SCOPED_TRACE(testing::Message() << name_of(matrix) << ", " << name_of(reduction) << ", " << batch_size);
        const auto expected = matrix == Matrix::ggn ? gauss_newton(reduction) : fisher(reduction);
        JacobianRows rows(problem, matrix);
        expect_near(all_rows(rows), expected);
      }
    }
  }
}

TEST(OutputMap, MultipliesByTheSecondDerivativeOfTheLoss) {
  const auto problem = problem_with(Reduction::mean, 2);
  const auto map = output_map(problem, Matrix::ggn, 1);
  ASSERT_EQ(map.y.sizes(), (std::vector<std::int64_t>{2 * outputs}));
  const auto x = torch::tensor({1.0, -2.0, 3.0, 0.5}, torch::kFloat64);
  EXPECT_TRUE(map.times(x).allclose(x * (2.0 / (samples * outputs))));
}

TEST(PulledBack, IsTheMatrixTimesTheParametersOfALinearNetwork) {
  const auto problem = problem_with(Reduction::mean, 2);
  const auto found = pulled_back(problem, Matrix::ggn, outputs_of(problem, Matrix::ggn));
  const auto matrix = gauss_newton(Reduction::mean);
  const auto theta = problem.flat_parameters();
  for (std::size_t i = 0; i < theta.size(); ++i) {
    double product = 0;
    for (std::size_t j = 0; j < theta.size(); ++j) product += matrix[i * theta.size() + j] * theta[j];
    EXPECT_NEAR(found[i], product, 1e-12);
  }
}

}  // namespace
}  // namespace hessian_mpi::engines
