#include "hessian_mpi/ranks/spread_vectors.hpp"

#include <algorithm>

namespace hessian_mpi::ranks {

template <class Number>
void complete_vectors(Number* vectors, std::int64_t count, const Rows& elements, std::int64_t n,
                      const Communicator& communicator) {
  constexpr auto width = static_cast<std::int64_t>(sizeof(Number));
  std::vector<std::int64_t> begins;  // in bytes
  for (const auto begin : communicator.join({static_cast<std::uint64_t>(elements.begin)})) {
    begins.push_back(static_cast<std::int64_t>(begin) * width);
  }
  begins.push_back(n * width);
  for (std::int64_t v = 0; v < count; ++v) communicator.complete(reinterpret_cast<char*>(vectors + v * n), begins);
}

template void complete_vectors(float*, std::int64_t, const Rows&, std::int64_t, const Communicator&);
template void complete_vectors(double*, std::int64_t, const Rows&, std::int64_t, const Communicator&);

std::vector<double> whole_vectors(const double* own, std::int64_t count, const Rows& elements, std::int64_t n,
                                  const Communicator& communicator) {
  auto all = communicator.together([&] { return std::vector<double>(static_cast<std::size_t>(n * count)); });
  for (std::int64_t v = 0; v < count; ++v) {
    std::copy_n(own + v * elements.count(), elements.count(), all.data() + v * n + elements.begin);
  }
  complete_vectors(all.data(), count, elements, n, communicator);
  return all;
}

}  // namespace hessian_mpi::ranks
