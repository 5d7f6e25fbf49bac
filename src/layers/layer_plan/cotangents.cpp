#include "layer_plan/cotangents.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <random>

namespace hessian_mpi::layers {

using torch::Tensor;

Tensor patternless_like(const Tensor& tensor) {
  std::mt19937 random(20260611);
  std::uniform_real_distribution<double> any(0.5, 1.5);
  Tensor numbers = at::empty({tensor.numel()}, at::kDouble);
  std::generate_n(numbers.data_ptr<double>(), tensor.numel(), [&] { return any(random); });
  return numbers.reshape(tensor.sizes()).to(tensor.device(), tensor.scalar_type());
}

void for_separating_sets(std::int64_t count,
                         const std::function<void(const std::function<Tensor(const Tensor&)>& contains)>& step) {
  const int bits = std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(count - 1, 0)));
  for (int bit = 0; bit < bits; ++bit) {
    for (const std::int64_t wanted : {0, 1}) {
      step([=](const Tensor& numbers) { return numbers.__rshift__(bit).__and__(1) == wanted; });
    }
  }
}

}  // namespace hessian_mpi::layers
