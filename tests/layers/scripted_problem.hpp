#pragma once
/// Networks of a few lines of TorchScript, in float64, for tests of what is seen in them.

#include <torch/script.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hessian_mpi/network/problem.hpp"
#include "torchscript_model.hpp"

namespace hessian_mpi::layers {

using Shapes = std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

// A network of these parameters whose forward(x) has this body.
inline network::Problem problem_of(const Shapes& shapes, const std::string& body,
                                   const std::vector<std::int64_t>& input, std::int64_t batch_size = 1 << 20) {
  torch::manual_seed(3);
  static const network::UnoptimisedTorchScript unoptimised;
  torch::jit::Module module("Net");
  for (const auto& [name, shape] : shapes) {
    module.register_parameter(name, (torch::randn(shape, torch::kFloat64) * 0.5).requires_grad_(), /*is_buffer=*/false);
  }
  module.register_attribute("training", c10::BoolType::get(), true);
  module.define("def forward(self, x):\n" + body);
  const auto inputs = torch::randn(input, torch::kFloat64);
  network::ProblemSettings settings;
  settings.loss = "output";
  settings.batch_size = batch_size;
  return {std::make_unique<network::TorchScriptModel>(std::move(module)), {{inputs}, {}}, settings};
}

}  // namespace hessian_mpi::layers
