// Operators that LibTorch calls on GPUs alone, by their formulas: the cells of recurrent layers, and convolutions of
// each channel by itself.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "simulated_gpu.hpp"

namespace simulated_gpu {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor seen(const OptionalTensor& tensor) {
  return tensor ? seen_by_kernels(*tensor) : Tensor();
}

Tensor with_bias(const Tensor& gates, const OptionalTensor& bias) {
  const Tensor numbers = seen_by_kernels(gates);
  return bias && bias->defined() ? numbers + seen_by_kernels(*bias) : numbers;
}

// Derivatives by what the gate's function is taken of.
Tensor of_sigmoid(const Tensor& gradient, const Tensor& gate) {
  return gradient * gate * (1 - gate);
}

Tensor of_tanh(const Tensor& gradient, const Tensor& gate) {
  return gradient * (1 - gate * gate);
}

// The last result holds the gates, for the backward: input, forget, cell, output.
std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& cx,
                                             const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  const auto gates = (with_bias(input_gates, input_bias) + with_bias(hidden_gates, hidden_bias)).chunk(4, 1);
  const Tensor in = gates[0].sigmoid(), forget = gates[1].sigmoid(), cell = gates[2].tanh(), out = gates[3].sigmoid();
  const Tensor cy = forget * seen_by_kernels(cx) + in * cell;
  const auto device = input_gates.device();
  return {copied_to_device(out * cy.tanh(), device), copied_to_device(cy, device),
          copied_to_device(at::cat({in, forget, cell, out}, 1), device)};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const OptionalTensor& grad_hy, const OptionalTensor& grad_cy,
                                                      const Tensor& cx, const Tensor& cy, const Tensor& workspace,
                                                      bool has_bias) {
  if (!seen(grad_hy).defined() && !seen(grad_cy).defined()) return {};
  const auto gates = seen_by_kernels(workspace).chunk(4, 1);
  const Tensor before = seen_by_kernels(cx), after = seen_by_kernels(cy).tanh();
  const Tensor of_hy = seen(grad_hy).defined() ? seen(grad_hy) : at::zeros_like(before);
  Tensor of_cy = of_tanh(of_hy * gates[3], after);
  if (seen(grad_cy).defined()) of_cy = of_cy + seen(grad_cy);
  const Tensor of_gates = at::cat({of_sigmoid(of_cy * gates[2], gates[0]), of_sigmoid(of_cy * before, gates[1]),
                                   of_tanh(of_cy * gates[0], gates[2]), of_sigmoid(of_hy * after, gates[3])},
                                  1);
  const auto device = cx.device();
  return {copied_to_device(of_gates, device), copied_to_device(of_cy * gates[1], device),
          has_bias ? copied_to_device(of_gates.sum(0), device) : Tensor()};
}

// The last result holds, for the backward: reset, update and new gates, the state before, and its part of the new gate.
std::tuple<Tensor, Tensor> gru_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& hx,
                                    const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  const auto input = with_bias(input_gates, input_bias).chunk(3, 1);
  const auto hidden = with_bias(hidden_gates, hidden_bias).chunk(3, 1);
  const Tensor before = seen_by_kernels(hx);
  const Tensor reset = (input[0] + hidden[0]).sigmoid(), update = (input[1] + hidden[1]).sigmoid();
  const Tensor fresh = (input[2] + reset * hidden[2]).tanh();
  const auto device = input_gates.device();
  return {copied_to_device(fresh + update * (before - fresh), device),
          copied_to_device(at::cat({reset, update, fresh, before, hidden[2]}, 1), device)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad_hy, const Tensor& workspace,
                                                                     bool has_bias) {
  const Tensor gradient = seen_by_kernels(grad_hy);
  const auto held = seen_by_kernels(workspace).chunk(5, 1);
  const Tensor &reset = held[0], &update = held[1], &fresh = held[2], &before = held[3], &hidden = held[4];
  const Tensor of_update = of_sigmoid(gradient * (before - fresh), update);
  const Tensor of_fresh = of_tanh(gradient * (1 - update), fresh);
  const Tensor of_reset = of_sigmoid(of_fresh * hidden, reset);
  const Tensor of_input = at::cat({of_reset, of_update, of_fresh}, 1);
  const Tensor of_hidden = at::cat({of_reset, of_update, of_fresh * reset}, 1);
  const auto device = grad_hy.device();
  return {copied_to_device(of_input, device), copied_to_device(of_hidden, device),
          copied_to_device(gradient * update, device), has_bias ? copied_to_device(of_input.sum(0), device) : Tensor(),
          has_bias ? copied_to_device(of_hidden.sum(0), device) : Tensor()};
}

Tensor convolution_by_channel(const Tensor& input, const Tensor& weight, at::IntArrayRef /*kernel_size*/,
                              const OptionalTensor& bias, at::IntArrayRef stride, at::IntArrayRef padding,
                              at::IntArrayRef dilation) {
  const std::vector<std::int64_t> no_output_padding(stride.size(), 0);
  return copied_to_device(at::convolution(seen_by_kernels(input), seen_by_kernels(weight), seen(bias), stride, padding,
                                          dilation, /*transposed=*/false, no_output_padding, input.size(1)),
                          input.device());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("_thnn_fused_lstm_cell", lstm_cell);
  library.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward);
  library.impl("_thnn_fused_gru_cell", gru_cell);
  library.impl("_thnn_fused_gru_cell_backward", gru_cell_backward);
  library.impl("_conv_depthwise2d", convolution_by_channel);
  library.impl("conv_depthwise3d", convolution_by_channel);
}

}  // namespace
}  // namespace simulated_gpu
