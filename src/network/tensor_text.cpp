#include "tensor_text.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::network {

std::string count_and_places(const torch::Tensor& mask) {
  constexpr std::int64_t most = 3;
  const std::int64_t count = mask.sum().item<std::int64_t>();
  if (count == 0) return {};
  const torch::Tensor places = mask.nonzero();
  std::string listed;
  for (std::int64_t k = 0; k < std::min(count, most); ++k) {
    std::string place;
    for (std::int64_t d = 0; d < mask.dim(); ++d) place += text(d == 0 ? "" : ", ", places[k][d].item<std::int64_t>());
    listed += text(k == 0 ? "" : ", ", "[", place, "]");
  }
  return text(count, " of ", mask.numel(), mask.numel() == 1 ? " value" : " values", " (at ", listed,
              count > most ? ", ..." : "", ")");
}

}  // namespace hessian_mpi::network
