#include "hessian_mpi/products/network_product.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

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

template <class Number>
void NetworkProduct::multiply_in(const double* own, std::int64_t count, double* products,
                                 const std::function<void()>& between) {
  const auto n = size();
  auto& whole = std::get<std::vector<Number>>(whole_);
  communicator_.together([&] {
    whole.resize(static_cast<std::size_t>(count * n));
    for (std::int64_t v = 0; v < count; ++v) {
      std::copy_n(own + v * own_.count(), own_.count(), whole.begin() + v * n + own_.begin);
    }
  });
  ranks::complete_vectors(whole.data(), count, own_, n, communicator_);
  const auto make = [&](std::int64_t batch, std::int64_t v, Number* made) {
    flatten(problem_, of_batch(batch).times(in_shape_of_parameters(problem_, whole.data() + v * n)), made);
  };
  sum_over_batches<Number>({problem_.batches(), count, n, make}, products, between, communicator_);
}

std::int64_t NetworkProduct::vectors_at_once() const {
  constexpr std::int64_t with_a_graph = 8;  // half a product's time
  const std::int64_t ranks = communicator_.size();
  const auto busy = problem_.batches() < ranks ? ranks / std::gcd(ranks, problem_.batches()) : 1;
  const bool all_kept = communicator_.max(std::int64_t{passing_.has_value()}) == 0;
  return all_kept ? busy : (with_a_graph + busy - 1) / busy * busy;
}

void NetworkProduct::multiply(const double* own, std::int64_t count, double* products,
                              const std::function<void()>& between) {
  if (problem_.precision() == Precision::float32) {
    multiply_in<float>(own, count, products, between);
  } else {
    multiply_in<double>(own, count, products, between);
  }
  communicator_.together([&] {
    for (std::int64_t k = 0; k < count * own_.count(); ++k) {
      if (problem_.l2() != 0) products[k] += problem_.l2() * own[k];
      if (std::isfinite(products[k])) continue;
      const auto i = own_.begin + k % own_.count();
      throw RunError(text("the matrix times a vector is not finite at ", problem_.index().describe(i)));
    }
  });
}

void NetworkProduct::forget_graphs() {
  kept_.clear();
  passing_.reset();
  passing_batch_ = -1;
}

namespace {

template <class Number>
network::LossAndGradient evaluate_in(const network::Problem& problem, const std::function<void()>& between,
                                     const ranks::Communicator& communicator) {
  const auto n = problem.index().size();
  std::vector<double> losses(static_cast<std::size_t>(problem.batches()));
  const auto make = [&](std::int64_t batch, std::int64_t, Number* made) {
    const auto [loss, gradient] = network::loss_and_gradient(problem, batch);
    losses[static_cast<std::size_t>(batch)] = loss;
    flatten(problem, gradient, made);
  };
  const auto elements = elements_of_rank(n, communicator.rank(), communicator.size());
  network::LossAndGradient sum{0, std::vector<double>(static_cast<std::size_t>(n))};
  sum_over_batches<Number>({problem.batches(), 1, n, make}, sum.gradient.data() + elements.begin, between,
                           communicator);
  ranks::complete_vectors(sum.gradient.data(), 1, elements, n, communicator);
  for (const double loss : communicator.sum(std::move(losses))) sum.loss += loss;
  return sum;
}

}  // namespace

network::LossAndGradient evaluate(const network::Problem& problem, const std::function<void()>& between,
                                  const ranks::Communicator& communicator) {
  auto sum = problem.precision() == Precision::float32 ? evaluate_in<float>(problem, between, communicator)
                                                       : evaluate_in<double>(problem, between, communicator);
  network::add_l2_term(problem, sum);
  return sum;
}

}  // namespace hessian_mpi::products
