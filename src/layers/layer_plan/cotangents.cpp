#include "layer_plan/cotangents.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <random>

namespace hessian_mpi::layers {

using torch::Tensor;

namespace {

// So many different numbers with the same number of bits set, of as few bits as can be: of any two, each has a bit that
// the other lacks.
struct Codes {
  explicit Codes(std::int64_t count) : of_numbers(at::empty({count}, at::kLong)) {
    // There are (bits over bits / 2) of them.
    for (std::int64_t most = 1; most < count;) {
      ++bits;
      most = bits % 2 == 0 ? most * 2 : most * bits / ((bits + 1) / 2);
    }
    std::int64_t code = (std::int64_t{1} << (bits / 2)) - 1;
    std::generate_n(of_numbers.data_ptr<std::int64_t>(), count, [&] {
      const auto this_one = code;
      if (code != 0) {  // the next larger number with as many bits set
        const auto lowest = code & -code;
        const auto carried = code + lowest;
        code = (((carried ^ code) >> 2) / lowest) | carried;
      }
      return this_one;
    });
  }

  int bits = 0;
  Tensor of_numbers;
};

}  // namespace

Tensor Patternless::like(const Tensor& tensor) {
  if (!numbers_.defined() || numbers_.numel() < tensor.numel()) {
    std::mt19937 random(20260611);
    std::uniform_real_distribution<double> any(0.5, 1.5);
    numbers_ = at::empty({tensor.numel()}, at::kDouble);
    std::generate_n(numbers_.data_ptr<double>(), tensor.numel(), [&] { return any(random); });
  }
  return numbers_.narrow(0, 0, tensor.numel()).reshape(tensor.sizes()).to(tensor.device(), tensor.scalar_type());
}

Tensor patternless_like(const Tensor& tensor) {
  return Patternless().like(tensor);
}

void for_separating_sets(std::int64_t count,
                         const std::function<void(const std::function<Tensor(const Tensor&)>& contains)>& step) {
  const Codes codes(count);
  for (int bit = 0; bit < codes.bits; ++bit) {
    const Tensor in_set = codes.of_numbers.__rshift__(bit).__and__(1) == 1;
    step([&](const Tensor& numbers) { return in_set.take(numbers); });
  }
}

}  // namespace hessian_mpi::layers
