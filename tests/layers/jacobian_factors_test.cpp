// Rows of J^T A J as products against the product of a J that PyTorch derives output by output.

#include "hessian_mpi/layers/jacobian_factors.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/layers/later_columns.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/matrix/runs.hpp"
#include "hessian_mpi/network/model.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t samples = 180;  // more outputs than are summed up in one piece
constexpr std::int64_t outputs = 3;

// Numbers without a pattern, the same on all ranks.
torch::Tensor numbers(std::vector<std::int64_t> sizes, double step) {
  return (torch::arange(c10::multiply_integers(sizes), torch::kFloat64) * step).sin().reshape(sizes);
}

/// A convolution, a linear layer, a scale, a rate, and a product with a weight that lies input by input.
class Network final : public network::Model {
 public:
  explicit Network(bool samples_interact) : samples_interact_(samples_interact) {
    parameters_ = {{"conv", numbers({3, 2, 3}, 1.3)}, {"conv_bias", numbers({3}, 0.7)},
                   {"linear", numbers({4, 12}, 2.1)}, {"linear_bias", numbers({4}, 1.9)},
                   {"scale", numbers({4}, 0.4)},      {"product", numbers({4, outputs}, 1.1)},
                   {"rate", numbers({4}, 0.6)}};
    for (auto& parameter : parameters_) parameter.value.requires_grad_();
  }
  std::string format() const override { return "test"; }
  std::vector<network::NamedTensor> parameters() const override { return parameters_; }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype dtype, torch::Device) override {
    for (auto& parameter : parameters_) parameter.value = parameter.value.detach().to(dtype).requires_grad_();
  }
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override {
    const auto& p = parameters_;
    const auto seen = at::conv1d(arguments.front().toTensor(), p[0].value, p[1].value, 1, 1).tanh();
    const auto z = at::linear(seen.flatten(1), p[2].value, p[3].value).tanh() * p[4].value * p[6].value.exp();
    const auto y = z.mm(p[5].value).tanh();
    return samples_interact_ ? y - y.mean(0) : y;
  }

 private:
  bool samples_interact_;
  std::vector<network::NamedTensor> parameters_;
};

struct Case {
  Matrix matrix = Matrix::ggn;
  bool samples_interact = false;
  std::optional<std::int64_t> batch_size = {};
  Precision precision = Precision::float64;
};

network::Problem problem_of(const Case& of) {
  network::ProblemSettings settings;
  settings.loss = "mse";
  settings.matrix = of.matrix;
  settings.batch_size = of.batch_size;
  settings.precision = of.precision;
  return {std::make_unique<Network>(of.samples_interact),
          {{numbers({samples, 2, 4}, 0.9)}, {numbers({samples, outputs}, 1.7)}},
          settings};
}

torch::Tensor gradient_row(const torch::Tensor& value, const network::Problem& problem) {
  std::vector<torch::Tensor> parts;
  for (const auto& part : torch::autograd::grad({value}, problem.parameters(), {}, true)) {
    parts.push_back(part.reshape(-1).to(torch::kFloat64));
  }
  return torch::cat(parts);
}

// 2 / (samples outputs) J^T J of all outputs, or the mean of the squares of samples' gradients.
torch::Tensor expected_matrix(const network::Problem& problem) {
  std::vector<torch::Tensor> rows;
  const auto targets = numbers({samples, outputs}, 1.7);
  for (std::int64_t b = 0; b < problem.batches(); ++b) {
    const auto y = problem.output(b).value.toTensor();
    for (std::int64_t s = 0; s < y.size(0); ++s) {
      const auto sample = problem.samples_in(b).begin + s;
      if (problem.matrix() == Matrix::fisher) {
        rows.push_back(gradient_row((y[s] - targets[sample]).square().mean(), problem) / std::sqrt(samples));
        continue;
      }
      for (std::int64_t k = 0; k < outputs; ++k) {
        rows.push_back(gradient_row(y[s][k], problem) * std::sqrt(2.0 / (samples * outputs)));
      }
    }
  }
  const auto jacobian = torch::stack(rows);
  return jacobian.t().mm(jacobian);
}

torch::Tensor made(engines::Engine& engine, const Rows& rows, const Rows& columns) {
  const auto out = torch::full({rows.count(), columns.count()}, std::nan(""), torch::kFloat64);
  double advanced = 0;
  engine.compute(rows, columns, Precision::float64, out.data_ptr<double>(), [&](double done) { advanced += done; });
  EXPECT_NEAR(advanced, static_cast<double>(rows.count()), 1e-9);
  return out;
}

void expect_near(const torch::Tensor& found, const torch::Tensor& expected, double tolerance) {
  EXPECT_LE((found - expected).abs().max().item<double>(), tolerance * expected.abs().max().item<double>());
}

TEST(JacobianFactors, MakeTheProductOfTheWholeJacobian) {
  const auto world = ranks::Communicator::world();
  for (const auto matrix : {Matrix::ggn, Matrix::fisher}) {
    for (const std::int64_t batch_size : {samples, std::int64_t{77}}) {
      const auto problem = problem_of({matrix, false, batch_size});
      const auto plan = plan_jacobian(problem, Entries::all);
      SCOPED_TRACE(testing::Message() << name_of(matrix) << " in batches of " << batch_size);
      EXPECT_EQ(plan.outputs_of_sample, matrix == Matrix::ggn ? outputs : 1);
      EXPECT_EQ(plan.others(), std::vector<std::size_t>{6}) << "the rate alone is no layer's";
      JacobianFactors factors(problem, plan, Precision::float64, world);
      const auto n = problem.index().size();
      expect_near(made(factors, {0, n}, {0, n}), expected_matrix(problem), 1e-12);
    }
  }
}

TEST(JacobianFactors, KnowWhereSamplesInteract) {
  const auto world = ranks::Communicator::world();
  const auto problem = problem_of({Matrix::ggn, true});
  const auto plan = plan_jacobian(problem, Entries::all);
  EXPECT_EQ(plan.outputs_of_sample, 0);
  EXPECT_EQ(plan.passes, samples * outputs);
  JacobianFactors factors(problem, plan, Precision::float64, world);
  const auto n = problem.index().size();
  expect_near(made(factors, {0, n}, {0, n}), expected_matrix(problem), 1e-12);
}

TEST(JacobianFactors, InFloat32AreAsNearAsThat) {
  const auto world = ranks::Communicator::world();
  const auto problem = problem_of({Matrix::ggn, false, {}, Precision::float32});
  const auto plan = plan_jacobian(problem, Entries::all);
  JacobianFactors factors(problem, plan, Precision::float32, world);
  const auto n = problem.index().size();
  expect_near(made(factors, {0, n}, {0, n}), expected_matrix(problem_of(Case{})), 1e-5);
}

// Pieces of a row of the matrix come out the same whatever is asked for beside them, and whether J is kept or derived
// batch by batch for each range of rows.
TEST(JacobianFactors, HaveTheSameBytesInPieces) {
  const auto world = ranks::Communicator::world();
  for (const auto precision : {Precision::float32, Precision::float64}) {
    const auto problem = problem_of({Matrix::ggn, false, 77, precision});
    auto plan = plan_jacobian(problem, Entries::all);
    ASSERT_TRUE(plan.kept);
    JacobianFactors kept(problem, plan, precision, world);
    auto of_less_memory = plan;
    of_less_memory.kept = false;
    JacobianFactors derived_again(problem, of_less_memory, precision, world);
    const auto n = problem.index().size();
    const auto whole = made(kept, {0, n}, {0, n});
    EXPECT_TRUE(made(derived_again, {0, n}, {0, n}).equal(whole));
    for (std::int64_t begin = 0, count = 1; begin < n; begin += count, ++count) {
      const Rows rows{begin, std::min(begin + count, n)};
      const Rows columns{begin / 2, n - begin / 3};
      const auto expected = whole.slice(0, rows.begin, rows.end).slice(1, columns.begin, columns.end);
      EXPECT_TRUE(made(kept, rows, columns).equal(expected)) << begin;
    }
  }
}

// Each step in the columns from its first row on, those before it from the rows that other ranks have made.
TEST(JacobianFactors, MakeOneHalfOfASymmetricMatrix) {
  const auto world = ranks::Communicator::world();
  const auto problem = problem_of({Matrix::ggn, false, 77});
  const auto plan = plan_jacobian(problem, Entries::all);
  const auto steps = plan_products(problem, plan, matrix::matrix_of(problem.index(), Precision::float64, Entries::all));
  ASSERT_EQ(steps.steps.size(), 4U);
  JacobianFactors factors(problem, plan, Precision::float64, world);
  const auto n = problem.index().size();
  const auto expected = expected_matrix(problem);
  std::vector<Rows> earlier;
  std::vector<std::pair<Rows, torch::Tensor>> mine;
  for (const auto& step : steps.steps) {
    std::vector<std::vector<Rows>> shares;
    for (int rank = 0; rank < world.size(); ++rank) {
      const auto share = matrix::share(step.products->count(), rank, world.size());
      shares.push_back({{step.products->begin + share.begin, step.products->begin + share.end}});
    }
    const Rows own = shares[static_cast<std::size_t>(world.rank())].front();
    EarlierColumns columns(earlier, shares, world.rank(), Precision::float64);
    for (const auto& [rows, numbers] : mine) {
      columns.note(rows, numbers.data_ptr<double>(), n);
    }
    columns.exchange(world);
    LaterColumns engine(factors, step.products->begin, columns);
    mine.emplace_back(own, made(engine, own, {0, n}));
    expect_near(mine.back().second, expected.slice(0, own.begin, own.end), 1e-12);
    expect_near(made(engine, own, {own.begin, n}), expected.slice(0, own.begin, own.end).slice(1, own.begin), 1e-12);
    matrix::append_run(*step.products, earlier);
  }
  EXPECT_EQ(matrix::count_of(earlier), n);
}

TEST(JacobianFactors, OfFewOutputsAreMadeInOneStep) {
  const auto problem = problem_of({Matrix::fisher});
  const auto matrix = matrix::matrix_of(problem.index(), Precision::float64, Entries::all);
  EXPECT_EQ(plan_products(problem, plan_jacobian(problem, Entries::all), matrix).steps.size(), 1U);
  const auto of_many = problem_of(Case{});
  const auto blocks = matrix::matrix_of(of_many.index(), Precision::float64, Entries::diagonal_blocks);
  EXPECT_EQ(plan_products(of_many, plan_jacobian(of_many, Entries::diagonal_blocks), blocks).steps.size(), 1U);
}

TEST(JacobianFactors, PassesEndWhereTheCallerThrows) {
  const auto world = ranks::Communicator::world();
  const auto problem = problem_of(Case{});
  const auto plan = plan_jacobian(problem, Entries::all);
  const auto stop = [] { throw ranks::AgreedError(ExitCode::stopped, "asked to"); };
  EXPECT_THROW(JacobianFactors(problem, plan, Precision::float64, world, stop), ranks::AgreedError);
}

}  // namespace
}  // namespace hessian_mpi::layers
