#include "layer_capture/normalization.hpp"

#include <ATen/ATen.h>

#include <utility>

namespace hessian_mpi::layers {

using torch::Tensor;

Normalization normalization_over(const Tensor& x, std::vector<std::int64_t> sizes, std::vector<std::int64_t> over,
                                 double epsilon) {
  const Tensor seen = x.reshape(sizes);
  const Tensor mean = seen.mean(over, /*keepdim=*/true);
  const Tensor variance = (seen - mean).square().mean(over, /*keepdim=*/true);
  return {std::move(sizes), std::move(over), mean, (variance + epsilon).rsqrt()};
}

Normalization fixed_normalization(const Tensor& x, const Tensor& mean, const Tensor& variance, double epsilon) {
  std::vector<std::int64_t> of_channels(static_cast<std::size_t>(x.dim()), 1);
  of_channels[1] = x.size(1);
  return {x.sizes().vec(),
          {},
          mean.detach().reshape(of_channels),
          (variance.detach() + epsilon).rsqrt().reshape(of_channels)};
}

Tensor normalized(const Normalization& normalization, const Tensor& x) {
  const Tensor seen = x.reshape(normalization.sizes);
  return ((seen - normalization.mean) * normalization.inverse_deviation).reshape(x.sizes());
}

Tensor times_derivative(const Normalization& normalization, const Tensor& a, const Tensor& v) {
  const Tensor seen = v.reshape(normalization.sizes);
  if (normalization.over.empty()) return (seen * normalization.inverse_deviation).reshape(v.sizes());
  const Tensor of_a = a.reshape(normalization.sizes);
  const auto mean = [&](const Tensor& tensor) { return tensor.mean(normalization.over, /*keepdim=*/true); };
  return ((seen - mean(seen) - of_a * mean(of_a * seen)) * normalization.inverse_deviation).reshape(v.sizes());
}

Tensor through_normalization(const LayerCall& call, const Tensor& tensor) {
  return call.normalization ? times_derivative(*call.normalization, call.input, tensor) : tensor;
}

}  // namespace hessian_mpi::layers
