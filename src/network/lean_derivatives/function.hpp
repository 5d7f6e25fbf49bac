#pragma once
/// What the lean derivatives, functions of autograd, share. Internal to them.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <initializer_list>

namespace hessian_mpi::network {

/// LibTorch's kernels without their derivatives, while it lives.
using Kernels = at::AutoDispatchBelowADInplaceOrView;

inline bool is_derived(const at::Tensor& a, const at::Tensor& b) {
  return at::GradMode::is_enabled() && (a.requires_grad() || b.requires_grad());
}

/// What a derivative needs of its graph whatever the cotangent: computed for the first.
template <class Compute>
at::Tensor once(torch::autograd::AutogradContext* graph, const char* name, Compute compute) {
  auto& kept = graph->saved_data[name];
  if (!kept.isTensor()) kept = compute();
  return kept.toTensor();
}

inline at::Tensor row_sum(const at::Tensor& x, std::int64_t dim) {
  return x.sum(dim, /*keepdim=*/true);
}

/// Whether a loop of this project can take tensors: numbers that lie in one run in the processor's memory.
inline bool are_plain(std::initializer_list<at::Tensor> tensors) {
  const at::Tensor& first = *tensors.begin();
  return (first.scalar_type() == at::kFloat || first.scalar_type() == at::kDouble) &&
         std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& x) {
           return x.device().is_cpu() && x.is_contiguous() && x.scalar_type() == first.scalar_type() && !x.is_neg() &&
                  !x._is_zerotensor();
         });
}

}  // namespace hessian_mpi::network
