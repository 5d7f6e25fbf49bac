#include "hessian_mpi/network/example.hpp"

#include <torch/script.h>
#include <torch/torch.h>

#include "torchscript_model.hpp"

namespace hessian_mpi::network {
namespace {

constexpr std::int64_t channels = 32;
constexpr std::int64_t height = 12;
constexpr std::int64_t width = 12;
constexpr std::int64_t classes = 5;
constexpr std::int64_t samples = 8;

// A scripted module is built here as torch.jit.script would: the example takes the way of every user's model.
torch::jit::Module layer(const std::string& name, const torch::nn::Module& initialised) {
  torch::jit::Module module(name);
  for (const auto& parameter : initialised.named_parameters()) {
    module.register_parameter(parameter.key(), parameter.value(), /*is_buffer=*/false);
  }
  return module;
}

}  // namespace

Example make_example(std::uint64_t seed) {
  torch::manual_seed(seed);
  const torch::nn::Conv2d c1(torch::nn::Conv2dOptions(1, channels, 3).stride(1).padding(1));
  const torch::nn::Linear f2(channels * height * width, classes);
  torch::jit::Module net("Net");
  net.register_module("c1", layer("Conv2d", *c1));
  net.register_module("f2", layer("Linear", *f2));
  net.register_attribute("training", c10::BoolType::get(), true);
  net.define(R"(
    def forward(self, x):
        x = torch.conv2d(x, self.c1.weight, self.c1.bias, [1, 1], [1, 1])
        x = x.view([x.size(0), -1])
        return torch.linear(x, self.f2.weight, self.f2.bias)
  )");
  auto inputs = torch::randn({samples, 1, height, width});
  auto targets = torch::randint(0, classes, {samples}, torch::kInt64);
  return {std::make_unique<TorchScriptModel>(std::move(net)), {{std::move(inputs)}, {std::move(targets)}}};
}

}  // namespace hessian_mpi::network
