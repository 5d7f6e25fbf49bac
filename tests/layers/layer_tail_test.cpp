// Which end of a network passes go round, and the matrices of its places, against formulas.

#include "layer_tail.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/layers/layer_capture.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "layer_graph.hpp"
#include "scripted_problem.hpp"

namespace hessian_mpi::layers {
namespace {

const Shapes three_layers{{"w", {4, 3}}, {"v", {2, 4}}, {"t", {2, 2}}};

// Positions meet in the mean over them, and what follows sees one at a time.
constexpr const char* meets = "    y = torch.linear(x, self.w)\n    u = y * torch.mean(y, 1, True)\n";

using Calls = std::vector<std::size_t>;

// The layers that passes from the first one go round.
Calls tail_of(const std::string& end, std::int64_t samples = 5, std::int64_t batch_size = 1 << 20) {
  const auto problem = problem_of(three_layers, meets + end, {samples, 6, 3}, batch_size);
  const auto plan = plan_layers(problem, Method::layers);
  Calls calls;
  if (!plan.steps.at(1).tail) return calls;
  for (const auto& layer : plan.steps[1].tail->layers) calls.push_back(layer.call);
  return calls;
}

TEST(LayerTail, HasTheMatricesOfTheFormulas) {
  const auto problem = problem_of(
      {{"w", {4, 3}}, {"v", {2, 4}}},
      std::string(meets) + "    z = torch.linear(u, self.v)\n    return torch.mean(torch.pow(z, 3))\n", {5, 6, 3});
  const auto forward = capture_layers(problem, 0);
  const auto shape = longest_tail(forward, {0}, {false, false});
  ASSERT_TRUE(shape.has_value());
  const auto tail = with_numbers(forward, *shape);
  const auto& x = forward.calls[0].input;
  const torch::NoGradGuard no_graph;
  const auto& w = problem.parameters()[0];
  const auto& v = problem.parameters()[1];
  const auto y = x.matmul(w.t());
  const auto u = (y * y.mean(1, true)).reshape({30, 4});
  const auto z = u.matmul(v.t());
  // dL/du = 3 z^2 V / 60, by u and by z; z's input is u.
  const auto by_z = 6 * z.unsqueeze(1) * v.t().unsqueeze(0) / 60;
  EXPECT_TRUE(torch::allclose(tail.delta.reshape({30, 4}), (3 * z * z).matmul(v) / 60, 1e-12));
  EXPECT_TRUE(torch::allclose(tail.by_x, by_z.matmul(v), 1e-12));
  ASSERT_EQ(tail.layers.size(), 1U);
  EXPECT_EQ(tail.layers[0].call, 1U);
  EXPECT_TRUE(torch::allclose(tail.by_layers.narrow(2, tail.layers[0].first_output, 2), by_z, 1e-12));
  EXPECT_TRUE(torch::allclose(tail.by_layers.narrow(2, tail.layers[0].first_element, 4),
                              torch::eye(4, torch::kFloat64).expand({30, 4, 4})));
}

TEST(LayerTail, HasNoDirectionFromWhatTheLossDoesNotFollow) {
  const auto problem = problem_of({{"w", {4, 3}}, {"s", {4, 3}}, {"v", {2, 4}}},
                                  "    y = torch.linear(x, self.w)\n    s = torch.sign(torch.linear(x, self.s))\n"
                                  "    z = torch.linear(y * torch.mean(y, 1, True) + s, self.v)\n"
                                  "    return torch.mean(torch.pow(z, 3))\n",
                                  {5, 6, 3});
  const auto forward = capture_layers(problem, 0);
  const auto shape = longest_tail(forward, {0, 1}, {false, false, false});
  ASSERT_TRUE(shape.has_value());
  const auto tail = with_numbers(forward, *shape);
  const LayerGraph graph(problem, 0, 1, &tail);
  const auto along = [&](std::size_t call) {
    return graph.second_derivatives({{call, torch::ones_like(forward.calls[call].output), {}}}, {call}, {}).along_x;
  };
  EXPECT_TRUE(along(0).any().item<bool>());
  ASSERT_TRUE(along(1).defined());
  EXPECT_FALSE(along(1).any().item<bool>());
}

TEST(LayerTail, IsWhatComesAfterPositionsMeet) {
  const std::string apart =
      "    z = torch.linear(torch.tanh(torch.linear(u, self.v)), self.t)\n    return torch.mean(z * z * z)\n";
  EXPECT_EQ(tail_of(apart), (Calls{1, 2}));
  // Another batch would have another tail.
  EXPECT_EQ(tail_of(apart, 6, 3), Calls{});

  const std::string meet_again =
      "    z = torch.tanh(torch.linear(u, self.v))\n    z = torch.linear(z * torch.mean(z, 1, True), self.t)\n"
      "    return torch.mean(z * z * z)\n";
  EXPECT_EQ(tail_of(meet_again), Calls{2});

  const std::string one_position =
      "    z = torch.linear(torch.tanh(torch.mean(torch.linear(u, self.v), 1)), self.t)\n"
      "    return torch.mean(z * z * z)\n";
  EXPECT_EQ(tail_of(one_position), Calls{2});
}

TEST(LayerTail, IsNoneOfWhatLayersEnterTheLossPast) {
  const std::string past =
      "    z = torch.linear(torch.tanh(torch.linear(u, self.v)), self.t)\n"
      "    return torch.mean(z * z * z) + torch.mean(y * y * y)\n";
  EXPECT_EQ(tail_of(past), Calls{});
}

}  // namespace
}  // namespace hessian_mpi::layers
