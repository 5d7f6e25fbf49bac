// Values and derivatives up to the third against LibTorch's own, which are made where nothing is replaced.

#include "lean_derivatives.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/nn/functional.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "plain_operators.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

// An operator of an input and, where it has them, a weight and a bias; and by plain operators, where LibTorch's third
// derivative is wrong.
struct Case {
  std::string name;
  std::function<Tensor(const Tensors&)> of;
  std::vector<std::vector<std::int64_t>> shapes;
  std::function<Tensor(const Tensors&)> plain = of;
};

Tensor plain_norm(const Tensor& x, std::vector<std::int64_t> over) {
  const Tensor from_mean = x - x.mean(over, true);
  return from_mean / (from_mean.square().mean(over, true) + 1e-5).sqrt();
}

// The derivative of a norm as operators of tracing have it.
Tensor traced_gradient(const Tensor& g, const Tensor& x, const Tensor& weight, int of) {
  const auto [y, mean, inverse] = torch::native_layer_norm(x, {4}, weight, {}, 1e-5);
  const auto all = torch::native_layer_norm_backward(g, x, {4}, mean, inverse, weight, {}, {true, true, false});
  return of == 0 ? std::get<0>(all) : std::get<1>(all);
}

Tensor plain_gradient(const Tensor& g, const Tensor& x, const Tensor& weight, int of) {
  return torch::autograd::grad({plain_norm(x, {-1}) * weight}, {of == 0 ? x : weight}, {g}, true, true)[0];
}

// Of queries, keys and values, with what stands between products and softmax.
std::function<Tensor(const Tensors&)> attention(std::function<Tensor(const Tensor&)> scores_of) {
  return [scores_of](const Tensors& t) { return scores_of(t[0].matmul(t[1].mT())).softmax(-1).matmul(t[2]); };
}

Tensor future(const Tensor& scores) {
  return torch::ones({scores.size(-2), scores.size(-1)}).triu(1).to(torch::kBool);
}

void PrintTo(const Case& some, std::ostream* out) {
  *out << some.name;
}

const std::vector<Case>& cases() {
  const auto running = [](std::int64_t channels) { return torch::linspace(0.5, 2, channels, torch::kDouble); };
  static const std::vector<Case> all = {
      {"gelu", [](const Tensors& t) { return torch::gelu(t[0]); }, {{3, 5}}},
      {"gelu_tanh", [](const Tensors& t) { return torch::gelu(t[0], "tanh"); }, {{3, 5}}},
      {"silu", [](const Tensors& t) { return torch::silu(t[0]); }, {{3, 5}}},
      {"bmm", [](const Tensors& t) { return t[0].bmm(t[1]); }, {{2, 3, 4}, {2, 4, 5}}},
      {"bmm_of_views",
       [](const Tensors& t) {
         return t[0].mT().bmm(t[1].expand({2, 4, 5}));
       },
       {{2, 4, 3}, {4, 5}}},
      {"bmm_of_two_vectors", [](const Tensors& t) { return t[0].bmm(t[1]); }, {{2, 11, 3}, {2, 3, 13}}},
      {"bmm_of_many_columns", [](const Tensors& t) { return t[0].bmm(t[1]); }, {{2, 3, 4}, {2, 4, 19}}},
      {"bmm_with_itself", [](const Tensors& t) { return t[0].bmm(t[0]); }, {{2, 3, 3}}},
      {"bmm_with_a_constant",
       [](const Tensors& t) {
         return t[0].bmm(torch::ones({2, 4, 5}, torch::kDouble));
       },
       {{2, 3, 4}}},
      {"complex_bmm",
       [](const Tensors& t) {
         const Tensor z = torch::complex(t[0], t[1]);
         return torch::real(z.bmm(z.mH()).bmm(z * z));
       },
       {{2, 3, 3}, {2, 3, 3}}},
      {"attention", attention([](const Tensor& x) { return x * 0.5; }), {{2, 3, 4}, {2, 5, 4}, {2, 5, 3}}},
      {"attention_of_many_queries", attention([](const Tensor& x) { return x; }), {{1, 37, 5}, {1, 21, 5}, {1, 21, 9}}},
      {"attention_of_each_to_each",
       [](const Tensors& t) { return attention([](const Tensor& x) { return x / 2; })({t[0], t[0], t[0]}); },
       {{2, 4, 3}}},
      {"attention_masked",
       attention([](const Tensor& x) { return (x * 0.7).masked_fill(future(x), -INFINITY); }),
       {{2, 2, 5, 3}, {2, 2, 5, 3}, {2, 2, 5, 3}}},
      {"attention_with_constants",
       attention([](const Tensor& x) { return x / 2 + torch::linspace(-1, 1, 5, torch::kDouble); }),
       {{2, 3, 4}, {2, 5, 4}, {2, 5, 3}}},
      {"attention_where",
       attention([](const Tensor& x) { return torch::where(future(x), torch::full_like(x, -INFINITY), x); }),
       {{2, 4, 3}, {2, 4, 3}, {2, 4, 3}}},
      {"attention_of_libtorch",
       [](const Tensors& t) {
         return std::get<0>(torch::_scaled_dot_product_attention_math(t[0], t[1], t[2], {}, 0., /*is_causal=*/true));
       },
       {{2, 2, 5, 3}, {2, 2, 5, 3}, {2, 2, 5, 3}}},
      {"attention_of_whom_a_query_sees_none",
       [](const Tensors& t) {
         const Tensor sees = torch::tensor({{true, false, true}, {false, false, false}});
         return std::get<0>(torch::_scaled_dot_product_attention_math(t[0], t[1], t[2], sees));
       },
       {{2, 1, 2, 3}, {2, 1, 3, 3}, {2, 1, 3, 3}}},
      {"attention_whose_weights_are_seen",
       [](const Tensors& t) {
         const Tensor p = t[0].bmm(t[1].mT()).softmax(-1);
         return p.bmm(t[2]) * p.square().sum(-1, true);
       },
       {{2, 3, 4}, {2, 5, 4}, {2, 5, 3}}},
      {"convolution",
       [](const Tensors& t) { return torch::conv2d(t[0], t[1], t[2], /*stride=*/2, /*padding=*/1); },
       {{2, 3, 5, 4}, {4, 3, 3, 3}, {4}}},
      {"convolution_in_groups",
       [](const Tensors& t) { return torch::conv1d(t[0], t[1], {}, 1, 2, /*dilation=*/2, /*groups=*/2); },
       {{2, 4, 7}, {6, 2, 3}}},
      {"convolution_of_one_sample",
       [](const Tensors& t) { return torch::conv2d(t[0], t[1]); },
       {{3, 5, 4}, {2, 3, 2, 2}}},
      {"convolution_of_a_constant",
       [](const Tensors& t) {
         return torch::conv1d(torch::ones({2, 3, 6}, torch::kDouble), t[0].tanh(), t[1]);
       },
       {{2, 3, 2}, {2}}},
      {"convolution_of_three_dimensions",
       [](const Tensors& t) { return torch::conv3d(t[0], t[1], t[2]); },
       {{2, 2, 3, 3, 3}, {2, 2, 2, 2, 2}, {2}}},
      {"transposed_convolution",
       [](const Tensors& t) {
         return torch::conv_transpose2d(t[0], t[1], t[2], 2, 1, /*output_padding=*/1, /*groups=*/2);
       },
       {{2, 4, 3, 3}, {4, 3, 3, 3}, {6}}},
      {"softmax", [](const Tensors& t) { return t[0].softmax(-1); }, {{2, 3, 4}}},
      {"softmax_inside", [](const Tensors& t) { return t[0].softmax(1); }, {{2, 3, 4}}},
      {"softmax_masked",
       [](const Tensors& t) {
         return t[0].masked_fill(torch::ones({4, 4}).triu(1).to(torch::kBool), -1e9).softmax(-1);
       },
       {{2, 4, 4}}},
      {"softmax_of_a_view", [](const Tensors& t) { return t[0].mT().softmax(-1); }, {{2, 3, 4}}},
      {"softmax_of_long_rows", [](const Tensors& t) { return t[0].softmax(1); }, {{2, 77}}},
      {"masked_fill",
       [](const Tensors& t) {
         return (t[0] * t[0]).masked_fill(torch::ones({3, 4}).triu(1).to(torch::kBool), 2).exp();
       },
       {{2, 3, 4}}},
      {"masked_fill_of_more",
       [](const Tensors& t) {
         return (t[0] * t[0]).masked_fill(torch::ones({2, 3, 4}).triu(1).to(torch::kBool), 2).exp();
       },
       {{3, 4}}},
      {"log_softmax", [](const Tensors& t) { return t[0].log_softmax(1); }, {{2, 3, 4}}},
      {"layer_norm",
       [](const Tensors& t) { return torch::layer_norm(t[0], {4}, t[1], t[2]); },
       {{2, 3, 4}, {4}, {4}},
       [](const Tensors& t) { return plain_norm(t[0], {-1}) * t[1] + t[2]; }},
      {"layer_norm_of_two_dimensions",
       [](const Tensors& t) {
         return torch::layer_norm(t[0], {3, 4}, t[1], t[2]);
       },
       {{2, 3, 4}, {3, 4}, {3, 4}},
       [](const Tensors& t) {
         return plain_norm(t[0], {-2, -1}) * t[1] + t[2];
       }},
      {"layer_norm_without_bias",
       [](const Tensors& t) { return torch::layer_norm(t[0], {4}, t[1]); },
       {{3, 4}, {4}},
       [](const Tensors& t) { return plain_norm(t[0], {-1}) * t[1]; }},
      {"layer_norm_alone",
       [](const Tensors& t) { return torch::layer_norm(t[0], {4}); },
       {{2, 3, 4}},
       [](const Tensors& t) { return plain_norm(t[0], {-1}); }},
      {"layer_norm_of_a_view",
       [](const Tensors& t) { return torch::layer_norm(t[0].transpose(0, 1), {3}, t[1], t[2]); },
       {{3, 4}, {3}, {3}},
       [](const Tensors& t) { return plain_norm(t[0].transpose(0, 1), {-1}) * t[1] + t[2]; }},
      {"layer_norm_of_long_rows",
       [](const Tensors& t) { return torch::layer_norm(t[0], {1100}, t[1]); },
       {{2, 1100}, {1100}},
       [](const Tensors& t) { return plain_norm(t[0], {-1}) * t[1]; }},
      {"layer_norm_gradient",
       [](const Tensors& t) { return traced_gradient(t[0], t[1], t[2], 0); },
       {{3, 4}, {3, 4}, {4}},
       [](const Tensors& t) { return plain_gradient(t[0], t[1], t[2], 0); }},
      {"layer_norm_gradient_by_weight",
       [](const Tensors& t) { return traced_gradient(t[0], t[1], t[2], 1); },
       {{3, 4}, {3, 4}, {4}},
       [](const Tensors& t) { return plain_gradient(t[0], t[1], t[2], 1); }},
      {"group_norm", [](const Tensors& t) { return torch::group_norm(t[0], 2, t[1], t[2]); }, {{2, 4, 3, 2}, {4}, {4}}},
      {"group_norm_without_places",
       [](const Tensors& t) { return torch::group_norm(t[0], 2, t[1], t[2]); },
       {{2, 6}, {6}, {6}}},
      {"mean_and_deviation_of_group_norm",
       [](const Tensors& t) {
         const auto [y, mean, inverse] = torch::native_group_norm(t[0], {}, {}, 2, 4, 3, 2, 1e-5);
         return mean * inverse;
       },
       {{2, 4, 3}}},
      {"group_norm_alone", [](const Tensors& t) { return torch::group_norm(t[0], 1); }, {{2, 4, 3}}},
      {"batch_norm_eval",
       [running](const Tensors& t) {
         return torch::batch_norm(t[0], t[1], t[2], running(3), running(3) + 1, false, 0.1, 1e-5, false);
       },
       {{2, 3, 4}, {3}, {3}}},
      {"batch_norm_eval_alone",
       [running](const Tensors& t) {
         return torch::batch_norm(t[0], {}, {}, running(3), running(3) + 1, false, 0.1, 1e-5, false);
       },
       {{4, 3}}},
      {"batch_norm_of_an_export",
       [running](const Tensors& t) {
         return std::get<0>(
             torch::_native_batch_norm_legit_no_training(t[0], t[1], t[2], running(3), running(3) + 1, 0.1, 1e-5));
       },
       {{2, 3, 4}, {3}, {3}}},
      {"batch_norm_train",
       [running](const Tensors& t) {
         return torch::batch_norm(t[0], t[1], t[2], running(3), running(3) + 1, true, 0.1, 1e-5, false);
       },
       {{5, 3, 4}, {3}, {3}}}};
  return all;
}

Tensors inputs_of(const Case& some) {
  torch::manual_seed(5);
  Tensors inputs;
  for (const auto& shape : some.shapes) inputs.push_back(torch::randn(shape, torch::kDouble).requires_grad_());
  return inputs;
}

Tensors along(const Tensors& outputs, const Tensors& inputs, bool create_graph) {
  Tensors reached, cotangents;
  for (const auto& output : outputs) {
    const Tensor cotangent = torch::randn(output.sizes(), output.options());
    if (!output.requires_grad()) continue;
    reached.push_back(output);
    cotangents.push_back(cotangent);
  }
  auto found = torch::autograd::grad(reached, inputs, cotangents, /*retain_graph=*/true, create_graph,
                                     /*allow_unused=*/true);
  for (std::size_t k = 0; k < found.size(); ++k) {
    if (!found[k].defined()) found[k] = torch::zeros_like(inputs[k]);
  }
  return found;
}

// The value, the gradient along a cotangent, two second derivatives on one graph, and a third.
Tensors derivatives_of(const std::function<Tensor(const Tensors&)>& of, const Tensors& inputs) {
  torch::manual_seed(7);
  const Tensor value = of(inputs);
  const auto first = along({value}, inputs, true);
  Tensors all{value};
  const auto add = [&](const Tensors& tensors) { all.insert(all.end(), tensors.begin(), tensors.end()); };
  add(first);
  add(along(first, inputs, false));
  add(along(first, inputs, false));
  add(along(along(first, inputs, true), inputs, false));
  return all;
}

class LeanDerivatives : public testing::TestWithParam<Case> {};

TEST_P(LeanDerivatives, AreThoseOfLibTorch) {
  const auto inputs = inputs_of(GetParam());
  const auto expected = derivatives_of(GetParam().plain, inputs);
  const PlainOperators replaced;
  const auto found = derivatives_of(GetParam().of, inputs);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t k = 0; k < found.size(); ++k) {
    EXPECT_TRUE(torch::allclose(found[k], expected[k], 1e-9, 1e-11)) << k << found[k] << expected[k];
  }
}

std::set<std::string> functions_in(const Tensor& root) {
  std::set<std::string> names;
  std::set<const torch::autograd::Node*> seen;
  std::vector<const torch::autograd::Node*> open{root.grad_fn().get()};
  while (!open.empty()) {
    const auto* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    names.insert(node->name());
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return names;
}

// A name that LibTorch no longer calls would leave its own derivative in place, and the test above without sense.
TEST_P(LeanDerivatives, StandInThePlaceOfLibTorchs) {
  if (GetParam().name == "batch_norm_train") GTEST_SKIP() << "LibTorch's own";
  const PlainOperators replaced;
  const auto inputs = inputs_of(GetParam());
  const auto functions = functions_in(along({GetParam().of(inputs)}, inputs, true)[0]);
  for (const auto* of_libtorch :
       {"GeluBackward0", "GeluBackwardBackward0", "SiluBackward0", "SiluBackwardBackward0",
        "ConvolutionBackwardBackward0", "SoftmaxBackwardDataBackward0", "LogSoftmaxBackwardDataBackward0",
        "NativeLayerNormBackwardBackward0", "NativeLayerNormBackward0", "NativeGroupNormBackward0", "BmmBackward0",
        "SoftmaxBackward0", "SafeSoftmaxBackward0", "MaskedFillBackward0", "NativeBatchNormBackwardBackward0"}) {
    EXPECT_FALSE(functions.contains(of_libtorch)) << of_libtorch;
  }
}

bool is_one_function(const std::function<Tensor(const Tensors&)>& of) {
  torch::manual_seed(5);
  const auto functions = functions_in(of({torch::randn({2, 4, 4}, torch::kDouble).requires_grad_()}));
  return std::any_of(functions.begin(), functions.end(),
                     [](const std::string& name) { return name.find("Attention>") != std::string::npos; });
}

// What is none would have derivatives that are wrong.
TEST(LeanDerivativesOfAttention, AreOneFunctionWhereItIsThatOfScaledProducts) {
  const PlainOperators replaced;
  const auto to_itself = [](std::function<Tensor(const Tensor&)> scores_of) {
    return [scores_of](const Tensors& t) { return attention(scores_of)({t[0], t[0].tanh(), t[0].sin()}); };
  };
  const Tensor mask = torch::ones({4, 4}).triu(1).to(torch::kBool);
  const Tensor numbers = torch::linspace(0.5, 2, 16, torch::kDouble).reshape({4, 4});
  EXPECT_TRUE(is_one_function(to_itself([](const Tensor& x) { return x; })));
  EXPECT_TRUE(is_one_function(to_itself([](const Tensor& x) { return 2 * x / 3 - 1; })));
  EXPECT_TRUE(is_one_function(to_itself([&](const Tensor& x) { return x.masked_fill(mask, -1e9); })));
  EXPECT_TRUE(is_one_function(to_itself([&](const Tensor& x) { return (x + numbers).masked_fill(mask, -INFINITY); })));
  EXPECT_FALSE(is_one_function(to_itself([&](const Tensor& x) { return x.masked_fill(mask, -1); })));
  EXPECT_FALSE(is_one_function(to_itself([&](const Tensor& x) { return x * numbers; })));
  EXPECT_FALSE(is_one_function(to_itself([](const Tensor& x) { return 1 / x; })));
  EXPECT_FALSE(is_one_function(to_itself([](const Tensor& x) { return x.tanh(); })));
  EXPECT_FALSE(is_one_function(to_itself([](const Tensor& x) { return x + x.mT(); })));
  EXPECT_FALSE(is_one_function(to_itself([](const Tensor& x) { return x.mT(); })));
  EXPECT_FALSE(is_one_function([](const Tensors& t) { return t[0].bmm(t[0]).softmax(1).bmm(t[0]); }));
  EXPECT_FALSE(is_one_function([](const Tensors& t) { return t[0].bmm(t[0]).softmax(-1).mT().bmm(t[0]); }));
  EXPECT_FALSE(is_one_function([](const Tensors& t) { return t[0].bmm(t[0]).softmax(-1).square().bmm(t[0]); }));
  EXPECT_FALSE(is_one_function([](const Tensors& t) { return t[0].softmax(-1).bmm(t[0]); }));
}

TEST(LeanDerivativesOfAttention, AreRefusedWhereWeightsAreChangedInPlace) {
  const PlainOperators replaced;
  const Tensor x = torch::randn({2, 4, 4}, torch::kDouble).requires_grad_();
  const Tensor p = x.bmm(x).softmax(-1);
  const Tensor y = p.bmm(x);
  p.detach().mul_(2);
  EXPECT_THROW(torch::autograd::grad({y.sum()}, {x}), c10::Error);
}

INSTANTIATE_TEST_SUITE_P(Operators, LeanDerivatives, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// A root's derivative at 0 is infinite.
TEST(LeanDerivativesOfMasks, AreNoneWhereThereIsAMask) {
  const PlainOperators replaced;
  const Tensor x = torch::tensor({2., 3., -4.}, torch::kDouble).requires_grad_();
  const Tensor root = x.square().masked_fill(torch::tensor({false, true, false}), 0).sqrt();
  const Tensor found = torch::autograd::grad({root.sum()}, {x})[0];
  EXPECT_TRUE(torch::equal(found, torch::tensor({1., 0., -1.}, torch::kDouble))) << found;
}

// Any number of rows and columns, and matrices that lie as they do in attention.
TEST(LeanDerivativesOfProducts, AreThoseOfSumsOfProducts) {
  torch::manual_seed(6);
  const auto expect_sums = [](const Tensor& a, const Tensor& b) {
    const Tensor expected = (a.to(torch::kDouble).unsqueeze(3) * b.to(torch::kDouble).unsqueeze(1)).sum(2);
    const double tolerance = a.scalar_type() == torch::kFloat ? 1e-6 : 1e-14;
    const Tensor found = a.bmm(b);
    ASSERT_EQ(found.scalar_type(), a.scalar_type());
    ASSERT_TRUE(torch::allclose(found.to(torch::kDouble), expected, tolerance, tolerance)) << a.sizes() << b.sizes();
  };
  const PlainOperators replaced;
  for (const auto dtype : {torch::kFloat, torch::kDouble}) {
    for (std::int64_t columns = 1; columns < 35; ++columns) {
      const Tensor a = torch::randn({3, columns % 18 + 1, 5}, dtype);
      expect_sums(a, torch::randn({3, 5, columns}, dtype));
      expect_sums(a, torch::randn({3, columns, 5}, dtype).mT());
      expect_sums(a.mT().contiguous().mT(), torch::randn({5, columns}, dtype).expand({3, 5, columns}));
    }
  }
  expect_sums(torch::randn({2, 3, 0}), torch::randn({2, 0, 4}));
  EXPECT_THROW(torch::randn({2, 3, 4}).bmm(torch::randn({2, 5, 4})), c10::Error);
}

// As autocast has it: half precision inside, float32 in a norm.
TEST(LeanDerivativesOfHalf, HaveTheTypesOfLibTorchs) {
  const auto derive = [] {
    torch::manual_seed(5);
    const Tensor x = torch::randn({3, 4}).to(torch::kBFloat16).requires_grad_();
    const Tensor y = torch::layer_norm(x, {4}).softmax(1, torch::kFloat).to(torch::kBFloat16);
    const auto first = along({torch::gelu(y)}, {x}, true);
    return Tensors{y, first[0], along(first, {x}, false)[0]};
  };
  const auto expected = derive();
  const PlainOperators replaced;
  const auto found = derive();
  for (std::size_t k = 0; k < found.size(); ++k) {
    EXPECT_EQ(found[k].scalar_type(), expected[k].scalar_type());
    EXPECT_TRUE(torch::allclose(found[k], expected[k], 0.1, 0.05)) << k << found[k] << expected[k];
  }
}

}  // namespace
}  // namespace hessian_mpi::network
