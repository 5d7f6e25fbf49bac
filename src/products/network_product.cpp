#include "hessian_mpi/products/network_product.hpp"

#include <cmath>

#include "flat_vector.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/products/shared_sum.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::products {
NetworkProduct::NetworkProduct(const network::Problem& problem, std::uint64_t memory,
                               const ranks::Communicator& communicator)
    : problem_(problem),
      memory_(memory),
      communicator_(communicator),
      own_(elements_of_rank(problem.index().size(), communicator.rank(), communicator.size())) {}

// What the first graph has taken of memory says how many there is room for.
const engines::BatchProduct& NetworkProduct::of_batch(std::int64_t batch) {
  const auto found = kept_.find(batch);
  if (found != kept_.end()) return found->second;
  if (passing_ && passing_batch_ == batch) return *passing_;
  passing_.reset();  // the old graph's memory before the new one's
  if (!bytes_of_graph_) {
    const auto before = system::allocated_memory();
    const auto& made = kept_.emplace(batch, engines::BatchProduct(problem_, batch)).first->second;
    const auto after = system::allocated_memory();
    bytes_of_graph_ = after > before ? after - before : 0;
    return made;
  }
  // Where another allocator is preloaded, nothing is known.
  const bool known = problem_.device().is_cpu() && *bytes_of_graph_ > 0;
  const bool fits = known && (kept_.size() + 1) * *bytes_of_graph_ <= memory_;
  if (fits) return kept_.emplace(batch, engines::BatchProduct(problem_, batch)).first->second;
  passing_.emplace(problem_, batch);
  passing_batch_ = batch;
  return *passing_;
}

std::vector<double> NetworkProduct::batch_times(std::int64_t batch, const double* v) {
  return flat(problem_, of_batch(batch).times(in_shape_of_parameters(problem_, v)));
}

void NetworkProduct::multiply(const double* own, std::int64_t count, double* products,
                              const std::function<void()>& between) {
  const auto n = size();
  const auto whole = ranks::whole_vectors(own, count, own_, n, communicator_);
  const auto make = [&](std::int64_t batch, std::int64_t v) { return batch_times(batch, whole.data() + v * n); };
  const auto sums = sum_over_batches({problem_.batches(), count, n, make}, between, communicator_);
  communicator_.together([&] {
    for (std::size_t k = 0; k < sums.size(); ++k) {
      products[k] = problem_.l2() == 0 ? sums[k] : sums[k] + problem_.l2() * own[k];
      if (std::isfinite(products[k])) continue;
      const auto i = own_.begin + static_cast<std::int64_t>(k) % own_.count();
      throw RunError(text("the matrix times a vector is not finite at ", problem_.index().describe(i)));
    }
  });
}

void NetworkProduct::forget_graphs() {
  kept_.clear();
  passing_.reset();
  passing_batch_ = -1;
}

network::LossAndGradient evaluate(const network::Problem& problem, const std::function<void()>& between,
                                  const ranks::Communicator& communicator) {
  const auto n = problem.index().size();
  const auto make = [&](std::int64_t batch, std::int64_t) {
    const auto [loss, gradient] = network::loss_and_gradient(problem, batch);
    auto numbers = flat(problem, gradient, 1);
    numbers.back() = loss;
    return numbers;
  };
  const auto own = sum_over_batches({problem.batches(), 1, n + 1, make}, between, communicator);
  const auto elements = elements_of_rank(n + 1, communicator.rank(), communicator.size());
  network::LossAndGradient sum{0, ranks::whole_vectors(own.data(), 1, elements, n + 1, communicator)};
  sum.loss = sum.gradient.back();
  sum.gradient.pop_back();
  network::add_l2_term(problem, sum);
  return sum;
}

}  // namespace hessian_mpi::products
