#pragma once
/// A network of one parameter w in float64 whose output is a formula of that and the input, for tests of what derives
/// it.

#include <torch/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi {

class FormulaModel final : public network::Model {
 public:
  using Formula = std::function<torch::Tensor(const torch::Tensor& w, const torch::Tensor& x)>;
  FormulaModel(torch::Tensor w, Formula formula) : w_(w.requires_grad_()), formula_(std::move(formula)) {}
  std::string format() const override { return "formula"; }
  std::vector<network::NamedTensor> parameters() const override { return {{"w", w_}}; }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype, torch::Device) override {}
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& inputs) override {
    return formula_(w_, inputs.front().toTensor());
  }

 private:
  torch::Tensor w_;
  Formula formula_;
};

inline std::unique_ptr<network::Model> formula_model(torch::Tensor w, FormulaModel::Formula formula) {
  return std::make_unique<FormulaModel>(std::move(w), std::move(formula));
}

}  // namespace hessian_mpi
