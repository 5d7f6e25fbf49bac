#include "hessian_mpi/ranks/spread_vectors.hpp"

#include <algorithm>

namespace hessian_mpi::ranks {

std::vector<double> whole_vectors(const double* own, std::int64_t count, const Rows& elements, std::int64_t n,
                                  const Communicator& communicator) {
  constexpr auto width = static_cast<std::int64_t>(sizeof(double));
  std::vector<std::int64_t> begins;  // in bytes
  for (const auto begin : communicator.join({static_cast<std::uint64_t>(elements.begin)})) {
    begins.push_back(static_cast<std::int64_t>(begin) * width);
  }
  begins.push_back(n * width);
  auto all = communicator.together([&] { return std::vector<double>(static_cast<std::size_t>(n * count)); });
  for (std::int64_t v = 0; v < count; ++v) {
    auto* of_vector = all.data() + v * n;
    std::copy_n(own + v * elements.count(), elements.count(), of_vector + elements.begin);
    communicator.complete(reinterpret_cast<char*>(of_vector), begins);
  }
  return all;
}

}  // namespace hessian_mpi::ranks
