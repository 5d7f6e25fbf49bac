// Values and first derivatives against LibTorch's own kernels, which are still called under other names; second ones
// are in tests/operators_test.cpp.

#include "plain_operators.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <functional>
#include <limits>

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

class ByPlainOperators : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(5); }

 private:
  PlainOperators plain_;
};

Tensor numbers(at::IntArrayRef shape) {
  return torch::randn(shape, torch::kDouble).requires_grad_();
}

Tensor indices(at::IntArrayRef shape, std::int64_t below) {
  return torch::randint(below, shape, torch::kLong);
}

// The derivative of a sum of squares of what a function returns, to have cotangents that differ.
Tensor gradient(const Tensor& value, const Tensor& x) {
  return torch::autograd::grad({value.square().sum()}, {x}, {}, /*retain_graph=*/true)[0];
}

void expect_same(const Tensor& found, const Tensor& expected, const Tensor& x) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_TRUE(torch::allclose(found, expected, 1e-12, 1e-13)) << found << expected;
  EXPECT_TRUE(torch::allclose(gradient(found, x), gradient(expected, x), 1e-11, 1e-12));
}

TEST_F(ByPlainOperators, WeightNormIsDirectionTimesLength) {
  const Tensor v = numbers({3, 4, 2}), g = numbers({1, 4, 1});
  const Tensor norm = v.square().sum(at::IntArrayRef{0, 2}, /*keepdim=*/true).sqrt();
  expect_same(torch::_weight_norm(v, g, 1), g * v / norm, v);
  const auto [weight, found] = torch::_weight_norm_interface(v, numbers({3, 1, 1}), 0);
  EXPECT_TRUE(torch::allclose(found, v.square().sum(at::IntArrayRef{1, 2}, true).sqrt()));
}

// Of samples with their own lengths of inputs and targets, as rows and as one list.
TEST_F(ByPlainOperators, CtcLossIsThatOfLibTorch) {
  const std::vector<std::int64_t> sizes{6, 4, 5, 6}, target_sizes{3, 0, 2, 1};
  const Tensor raw = numbers({6, 4, 5});
  const Tensor scores = raw.log_softmax(2);
  const Tensor targets = 1 + indices({4, 3}, 4);
  const auto own = [&](const Tensor& which) {
    return std::get<0>(torch::_ctc_loss(scores, which, sizes, target_sizes));
  };
  for (const Tensor& which : {targets, targets.flatten().narrow(0, 0, 6)}) {
    const Tensor expected = own(which);
    expect_same(torch::ctc_loss(scores, which, sizes, target_sizes, 0, at::Reduction::None), expected, raw);
    const Tensor lengths = torch::tensor(target_sizes).clamp_min(1);
    expect_same(torch::ctc_loss(scores, which, sizes, target_sizes), (expected / lengths).mean(), raw);
  }
  const Tensor one =
      torch::ctc_loss(scores.select(1, 0), targets[0], torch::tensor(6), torch::tensor(3), 0, at::Reduction::Sum);
  expect_same(one, own(targets)[0], raw);
}

// No way through two inputs for a label that is repeated.
TEST_F(ByPlainOperators, CtcLossOfTheImpossibleIsInfiniteOrZero) {
  const Tensor raw = numbers({2, 1, 3});
  const auto loss = [&](bool zero) {
    return torch::ctc_loss(raw.log_softmax(2), torch::tensor({{1, 1}}), {2}, {2}, 0, at::Reduction::Sum, zero);
  };
  EXPECT_EQ(loss(false).item<double>(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(loss(true).item<double>(), 0);
  EXPECT_TRUE(gradient(loss(true), raw).eq(0).all().item<bool>());
}

TEST_F(ByPlainOperators, BagsOfEmbeddingsAreThoseOfLibTorch) {
  const Tensor table = numbers({6, 3}), chosen = indices({9}, 6);
  const Tensor weights = torch::rand({9}, torch::kDouble);
  const Tensor offsets = torch::tensor({0, 4, 4, 5}), bounds = torch::tensor({0, 4, 4, 5, 9});
  for (const std::int64_t mode : {0, 1, 2}) {
    for (const std::int64_t padding : {-1, 2}) {
      const std::optional<std::int64_t> absent = padding < 0 ? std::nullopt : std::optional(padding);
      const auto per_sample = mode == 0 ? std::optional(weights) : std::nullopt;
      const Tensor expected =
          std::get<0>(torch::_embedding_bag(table, chosen, offsets, false, mode, false, per_sample, false, padding));
      expect_same(
          std::get<0>(torch::embedding_bag(table, chosen, offsets, false, mode, false, per_sample, false, absent)),
          expected, table);
      expect_same(
          std::get<0>(torch::embedding_bag(table, chosen, bounds, false, mode, false, per_sample, true, absent)),
          expected, table);
    }
  }
}

TEST_F(ByPlainOperators, MarginLossesAreThoseOfLibTorch) {
  const Tensor scores = numbers({5, 4}), weight = torch::rand({4}, torch::kDouble);
  const Tensor classes = indices({5}, 4);
  for (const auto reduction : {at::Reduction::None, at::Reduction::Mean, at::Reduction::Sum}) {
    Tensor expected = torch::empty({0}, torch::kDouble);
    torch::multi_margin_loss_out(expected, scores.detach(), classes, 2, 0.7, weight, reduction);
    EXPECT_TRUE(torch::allclose(torch::multi_margin_loss(scores, classes, 2, 0.7, weight, reduction), expected));
    const Tensor labels = torch::tensor({{0, -1, 2, 1}, {3, 1, -1, 0}, {-1, 0, 1, 2}, {0, 1, 2, 3}, {2, 2, -1, -1}});
    expect_same(torch::multilabel_margin_loss(scores, labels, reduction),
                std::get<0>(torch::multilabel_margin_loss_forward(scores, labels, reduction)), scores);
  }
}

TEST_F(ByPlainOperators, DistancesAndHardsigmoidAreThoseOfLibTorch) {
  const Tensor a = numbers({2, 4, 3}), b = numbers({2, 5, 3}), points = numbers({5, 3});
  for (const double p : {1.0, 2.0, 3.5}) {
    expect_same(torch::cdist(a, b, p), torch::_cdist_forward(a, b, p, std::nullopt), a);
    expect_same(torch::pdist(points, p), torch::_pdist_forward(points, p), points);
  }
  const Tensor x = torch::linspace(-5, 5, 12, torch::kDouble).requires_grad_();
  expect_same(torch::hardsigmoid(x), torch::relu6(x + 3) / 6, x);
  Tensor in_place = x * 1;
  torch::hardsigmoid_(in_place);
  expect_same(in_place, torch::relu6(x + 3) / 6, x);
}

// A kernel of points with themselves: the same by distances and by their squares, which are smooth.
TEST_F(ByPlainOperators, DistancesOfPointsThatAreOneHaveNoSlope) {
  const Tensor w = numbers({3, 2}), inputs = torch::randn({4, 3}, torch::kDouble);
  const Tensor points = torch::cat({inputs, inputs.slice(0, 0, 1)}).matmul(w).tanh();  // the first twice
  const auto second = [&](const Tensor& value) {
    const Tensor first = torch::autograd::grad({value}, {w}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0];
    return torch::autograd::grad({first.cos().sum()}, {w}, {}, /*retain_graph=*/true)[0];
  };
  const Tensor squares = (points.unsqueeze(1) - points.unsqueeze(0)).square().sum(-1);
  const Tensor upper = torch::triu_indices(5, 5, 1);
  const Tensor squares_of_pairs = squares.index({upper[0], upper[1]});
  const auto kernel = [](const Tensor& square) { return square.neg().exp().sum(); };
  const auto expect_as_by_squares = [&](const Tensor& distances, const Tensor& expected) {
    EXPECT_TRUE(torch::allclose(second(kernel(distances.square())), second(kernel(expected)), 1e-11, 1e-12));
  };
  expect_as_by_squares(torch::cdist(points, points), squares);
  expect_as_by_squares(torch::pdist(points), squares_of_pairs);
}

TEST_F(ByPlainOperators, ThoseThatAreCalledAreNoted) {
  const Tensor v = numbers({3, 2}), g = numbers({3, 1});
  {
    const CalledOperators called;
    torch::tanh(v).sum();
    EXPECT_TRUE(called.cures().empty());
    torch::_weight_norm(v, g, 0);
    ASSERT_EQ(called.cures().size(), 1U);
    EXPECT_NE(called.cures()[0].find("weight_norm"), std::string::npos);
    torch::embedding(v, indices({4}, 3));
    EXPECT_FALSE(called.refusal());
    torch::embedding(v, indices({4}, 3), -1, /*scale_grad_by_freq=*/true);
    EXPECT_TRUE(called.refusal());
  }
  torch::_weight_norm(v, g, 0);
  EXPECT_TRUE(CalledOperators().cures().empty());
}

}  // namespace
}  // namespace hessian_mpi::network
