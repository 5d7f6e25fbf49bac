// Which layers are captured and factored, and what the plan says of the others.

#include "hessian_mpi/layers/layer_plan.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/example.hpp"
#include "layer_plan/cotangents.hpp"
#include "layer_plan/operator_counts.hpp"
#include "scripted_problem.hpp"

namespace hessian_mpi::layers {
namespace {

TEST(SeparatingSets, HaveTheFirstOfAnyTwoNumbersAndNotTheSecond) {
  const std::map<std::int64_t, std::size_t> fewest{{1, 0}, {2, 2}, {3, 3}, {7, 5}, {20, 6}, {21, 7}, {200, 10}};
  for (const auto& [count, wanted] : fewest) {
    const auto numbers = torch::arange(count, torch::kLong);
    auto separated = torch::eye(count).to(torch::kBool);
    std::size_t sets = 0;
    for_separating_sets(count, [&](const auto& contains) {
      const auto in_set = contains(numbers);
      separated |= in_set.unsqueeze(1) & ~in_set.unsqueeze(0);
      ++sets;
    });
    EXPECT_TRUE(separated.all().template item<bool>()) << count;
    EXPECT_EQ(sets, wanted) << count;
  }
}

// Inputs of these shapes, and what is counted of them.
struct Counted {
  std::string name;
  std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&)> of;
  std::vector<std::int64_t> a, b;
  double products, numbers;
};

TEST(OperatorCounts, AreThoseOfTheFormulas) {
  const std::vector<Counted> cases{
      {"mm", [](const auto& a, const auto& b) { return a.matmul(b); }, {2, 3}, {3, 5}, 2 * 3 * 5, 0},
      {"bmm", [](const auto& a, const auto& b) { return a.matmul(b); }, {4, 2, 3}, {4, 3, 5}, 4 * 2 * 3 * 5, 0},
      {"conv",
       [](const auto& a, const auto& b) { return torch::conv1d(a, b); },
       {2, 3, 7},
       {5, 3, 4},
       2 * 5 * 4 * (3 * 4),
       0},
      {"transposed",
       [](const auto& a, const auto& b) { return torch::conv_transpose1d(a, b); },
       {2, 3, 7},
       {3, 5, 4},
       2 * 3 * 7 * (5 * 4),
       0},
      {"sum", [](const auto& a, const auto& b) { return a + b; }, {2, 3}, {3}, 0, 6 + 3 + 6},
      {"view", [](const auto& a, const auto&) { return a.transpose(0, 1).unsqueeze(0); }, {2, 3}, {1}, 0, 0},
      {"copy", [](const auto& a, const auto&) { return a.transpose(0, 1).contiguous(); }, {2, 3}, {1}, 0, 6 + 6 + 6}};
  for (const auto& some : cases) {
    const auto a = torch::ones(some.a), b = torch::ones(some.b);
    const auto counts = counts_of_operators([&] { some.of(a, b); });
    EXPECT_EQ(counts.products, some.products) << some.name;
    EXPECT_EQ(counts.numbers, some.numbers) << some.name;
    EXPECT_GT(counts.calls, 0) << some.name;
  }
}

TEST(OperatorCounts, AreThoseOfADerivativeToo) {
  const auto a = torch::ones({2, 3}).requires_grad_(), b = torch::ones({3, 5}).requires_grad_();
  const auto c = a.mm(b);
  const auto counts = counts_of_operators([&] { torch::autograd::grad({c}, {a, b}, {torch::ones({2, 5})}); });
  EXPECT_EQ(counts.products, 2 * 2 * 3 * 5);
}

std::map<std::string, std::string> reasons_of(const network::Problem& problem, Method method = Method::layers) {
  const auto plan = plan_layers(problem, method);
  std::map<std::string, std::string> reasons;
  for (std::size_t p = 0; p < plan.parameters.size(); ++p) {
    reasons[problem.index().entries()[p].name] = plan.parameters[p].reason;
  }
  return reasons;
}

// Of each step.
std::vector<Unit> units_of(const network::Problem& problem) {
  std::vector<Unit> units;
  const auto steps = plan_layers(problem, Method::layers).steps;
  for (std::size_t s = 1; s < steps.size(); ++s) units.push_back(steps[s].unit);
  return units;
}

const Shapes two_layers{{"w", {4, 3}}, {"b", {4}}, {"v", {2, 4}}};
constexpr const char* ends = "    return torch.mean(torch.pow(z, 3))\n";

// Two layers, and what is done to y between them.
std::string two_layers_around(const std::string& between) {
  return "    y = torch.linear(x, self.w, self.b)\n    " + between + "\n    z = torch.linear(y, self.v)\n" + ends;
}

// Networks of one function in several forms.
class Form : public testing::TestWithParam<const char*> {};

TEST_P(Form, IsCaptured) {
  const auto problem = problem_of(two_layers, std::string(GetParam()) + ends, {5, 3});
  for (const auto& [name, reason] : reasons_of(problem)) EXPECT_EQ(reason, "") << name;
}

INSTANTIATE_TEST_SUITE_P(
    LayerPlan, Form,
    testing::Values("    z = torch.linear(torch.tanh(torch.linear(x, self.w, self.b)), self.v)\n",
                    "    z = torch.mm(torch.tanh(torch.addmm(self.b, x, self.w.t())), self.v.t())\n",
                    "    z = torch.matmul(torch.tanh(torch.linear(x, self.w, self.b)), "
                    "torch.transpose(self.v, 0, 1))\n",
                    "    y = torch.linear(x, self.w, self.b)\n"
                    "    y.tanh_()\n"
                    "    z = torch.linear(y, self.v)\n"));

struct Part {
  const char* name;
  Shapes parameters;
  std::vector<std::int64_t> input;
  const char* body;  // from x to y
};

// What parts of networks have beside linear layers.
class PartOfNetwork : public testing::TestWithParam<Part> {};

TEST_P(PartOfNetwork, IsCaptured) {
  const auto& part = GetParam();
  const auto problem =
      problem_of(part.parameters, part.body + std::string("    z = torch.sin(y)\n") + ends, part.input);
  for (const auto& [name, reason] : reasons_of(problem)) EXPECT_EQ(reason, "") << name;
}

const Shapes of_three{{"w", {3}}, {"b", {3}}};

INSTANTIATE_TEST_SUITE_P(
    LayerPlan, PartOfNetwork,
    testing::Values(
        Part{"layer_norm", of_three, {4, 5, 3}, "    y = torch.layer_norm(x, [3], self.w, self.b)\n"},
        Part{"layer_norm_of_two",
             {{"w", {5, 3}}, {"b", {5, 3}}},
             {4, 5, 3},
             "    y = torch.layer_norm(x, [5, 3], self.w, self.b)\n"},
        Part{"group_norm", {{"w", {4}}, {"b", {4}}}, {2, 4, 3}, "    y = torch.group_norm(x, 2, self.w, self.b)\n"},
        Part{"batch_norm",
             of_three,
             {4, 3, 2},
             "    y = torch.batch_norm(x, self.w, self.b, torch.zeros(3).double(), torch.ones(3).double(), False, 0.1, "
             "1e-5, False)\n"},
        Part{"rms_norm", {{"w", {3}}}, {4, 5, 3}, "    y = torch.rms_norm(x, [3], self.w)\n"},
        Part{"scale", {{"w", {3}}, {"b", {1}}}, {4, 3}, "    y = (x * self.w) * self.b\n"},
        Part{"scale_in_place", {{"w", {3}}, {"b", {3}}}, {4, 3}, "    y = torch.sin(x).mul_(self.w).add_(self.b)\n"},
        Part{"scale_of_channels", of_three, {4, 3, 2}, "    y = x * self.w.view(3, 1) + self.b[None, :, None]\n"},
        Part{"positions", {{"p", {5, 3}}}, {4, 5, 3}, "    y = x + self.p\n"},
        Part{"table_of_positions",
             {{"p", {5, 3}}},
             {4, 5, 3},
             "    y = x + torch.embedding(self.p, torch.arange(5), -1, False, False)\n"},
        Part{"transposed_convolution",
             {{"w", {4, 3, 2}}, {"b", {6}}},
             {2, 4, 3},
             "    y = torch.conv_transpose1d(x, self.w, self.b, [2], [1], [1], 2, [1])\n"}),
    [](const auto& part) { return part.param.name; });

TEST(LayerPlan, MakesWhatIsTiedFirstAndTogether) {
  const auto twice = problem_of({{"u", {3, 3}}, {"w", {3, 3}}, {"v", {2, 3}}},
                                "    y = torch.tanh(torch.linear(torch.tanh(torch.linear(x, self.u)), self.w))\n"
                                "    z = torch.linear(torch.tanh(torch.linear(y, self.w)), self.v)\n" +
                                    std::string(ends),
                                {5, 3});
  const auto plan = plan_layers(twice, Method::layers);
  ASSERT_EQ(plan.steps.size(), 3U);
  EXPECT_TRUE(plan.steps[1].whole);
  EXPECT_EQ(plan.steps[1].rows, 9);
  EXPECT_EQ(plan.steps[1].passes, 9);
  EXPECT_EQ(plan.parameters[1].step, 1U);
  EXPECT_EQ(plan.steps[2].rows, 15);
  EXPECT_EQ(plan.steps[0].rows, 0);
}

TEST(LayerPlan, SaysWhyAParameterIsNotFactored) {
  const auto penalty = problem_of(
      {{"w", {3, 3}}},
      "    return torch.mean(torch.pow(torch.linear(x, self.w), 3)) + torch.sum(torch.pow(self.w, 4))\n", {5, 3});
  EXPECT_EQ(reasons_of(penalty)["w"], "it enters the loss in several places");

  const auto normalised =
      problem_of({{"w", {3, 3}}}, "    z = torch.linear(x, self.w / torch.norm(self.w))\n" + std::string(ends), {5, 3});
  EXPECT_EQ(reasons_of(normalised)["w"],
            "it is no weight or bias of a linear layer, a convolution, an embedding or a norm");

  const auto unused =
      problem_of({{"w", {3, 3}}, {"v", {2, 2}}}, "    z = torch.linear(x, self.w)\n" + std::string(ends), {5, 3});
  EXPECT_EQ(reasons_of(unused)["w"], "");
  EXPECT_NE(reasons_of(unused)["v"], "");
}

TEST(LayerPlan, FindsWhatSecondDerivativesCross) {
  const auto apart = problem_of(two_layers, two_layers_around("y = torch.tanh(y)"), {5, 6, 3});
  EXPECT_EQ(units_of(apart), std::vector<Unit>{Unit::position});

  const auto mixed =
      problem_of(two_layers, two_layers_around("y = torch.tanh(y)\n    y = y * torch.mean(y, 1, True)"), {5, 6, 3});
  EXPECT_EQ(units_of(mixed), (std::vector<Unit>{Unit::sample, Unit::position}));  // w, then v

  // As batch normalisation does in train mode.
  const auto crossing = problem_of(two_layers, two_layers_around("y = torch.tanh(y - torch.mean(y, 0, True))"), {5, 3});
  EXPECT_EQ(units_of(crossing), (std::vector<Unit>{Unit::batch, Unit::position}));
  EXPECT_EQ(reasons_of(crossing)["w"], "");
}

// Two layers of w x w weights for so many samples.
std::size_t steps_of_two_layers(std::int64_t w, std::int64_t samples) {
  const Shapes shapes{{"w", {w, w}}, {"b", {w}}, {"v", {w, w}}};
  const auto problem = problem_of(shapes, two_layers_around("y = torch.tanh(y)"), {samples, w});
  return plan_layers(problem, Method::layers).steps.size() - 1;
}

// Their rows are columns of the second's where more samples would make these again, and many of them later.
TEST(LayerPlan, BringsColumnsOfLayersWithManySamples) {
  EXPECT_EQ(steps_of_two_layers(3, 64), 1U);
  EXPECT_EQ(steps_of_two_layers(3, 65), 2U);
  EXPECT_EQ(steps_of_two_layers(130, 65), 1U);
  EXPECT_EQ(steps_of_two_layers(130, 129), 2U);
}

// A convolution with more positions than weights, and a linear layer.
TEST(LayerPlan, TakesAPassForEachRowWhereThoseAreFewer) {
  auto example = network::make_example(0);
  const network::Problem problem(std::move(example.model), example.data, {});
  const auto plan = plan_layers(problem, Method::automatic);
  ASSERT_EQ(plan.steps.size(), 3U);
  EXPECT_EQ(plan.steps[0].rows, 0);
  EXPECT_EQ(plan.steps[1].rows, 320);
  EXPECT_EQ(plan.steps[1].passes, 320);
  EXPECT_EQ(plan.steps[2].rows, 23045);
  EXPECT_EQ(plan.steps[2].passes, 5);
  EXPECT_EQ(lines_of(plan, problem.index()), "c1.weight: layers\nc1.bias: layers\nf2.weight: layers\nf2.bias: layers");
  EXPECT_EQ(plan_layers(problem, Method::rows).steps.front().rows, 23365);
}

}  // namespace
}  // namespace hessian_mpi::layers
