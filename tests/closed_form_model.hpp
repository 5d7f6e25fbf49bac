#pragma once
/// A model whose loss has a Hessian that can be written down, for tests of what derives it.

#include <torch/types.h>

#include <cmath>
#include <memory>
#include <vector>

#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi {

/// For a sample (x_0, x_1): L = x_0 * sum_k a_k^3 + x_1 * (sum_k a_k) * b_0 * b_1 + exp(b_1), a of shape [2, 2], b of
/// shape [2]; a third parameter c of shape [3] takes no part, and a fourth, d of shape [], takes part linearly.
class ClosedFormModel final : public network::Model {
 public:
  std::string format() const override { return "closed form"; }
  std::vector<network::NamedTensor> parameters() const override { return {{"a", a_}, {"b", b_}, {"c", c_}, {"d", d_}}; }
  std::vector<std::string> input_names() const override { return {"x"}; }
  void convert(torch::Dtype dtype, torch::Device device) override {
    for (auto* parameter : {&a_, &b_, &c_, &d_}) *parameter = parameter->detach().to(device, dtype).requires_grad_();
  }
  void set_mode(Mode) override {}
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override {
    const auto x = arguments.front().toTensor();
    const auto terms = x.select(1, 0) * a_.pow(3).sum() + x.select(1, 1) * a_.sum() * b_[0] * b_[1] + b_[1].exp() + d_;
    return terms.mean();
  }

 private:
  torch::Tensor a_ = torch::tensor({{0.5, -1.0}, {2.0, 0.25}}).requires_grad_();
  torch::Tensor b_ = torch::tensor({1.5, -0.75}).requires_grad_();
  torch::Tensor c_ = torch::ones({3}).requires_grad_();
  torch::Tensor d_ = torch::tensor(4.0).requires_grad_();
};

constexpr std::int64_t closed_form_size = 4 + 2 + 3 + 1;

/// The Hessian of the mean over samples whose means are x_0 and x_1, row-major.
inline std::vector<double> closed_form_hessian(double x_0, double x_1) {
  constexpr double a[] = {0.5, -1.0, 2.0, 0.25};
  constexpr double b[] = {1.5, -0.75};
  constexpr std::size_t n = closed_form_size;
  std::vector<double> h(n * n, 0.0);
  const auto set = [&h](std::size_t i, std::size_t j, double value) { h[i * n + j] = h[j * n + i] = value; };
  for (std::size_t k = 0; k < 4; ++k) {
    set(k, k, x_0 * 6 * a[k]);
    set(k, 4, x_1 * b[1]);
    set(k, 5, x_1 * b[0]);
  }
  set(4, 5, x_1 * (a[0] + a[1] + a[2] + a[3]));
  set(5, 5, std::exp(b[1]));
  return h;
}

}  // namespace hessian_mpi
