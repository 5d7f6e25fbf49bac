#pragma once
/// Sums over the batches of a data set that ranks share, whose bits depend on the batches alone.

#include <cstdint>
#include <functional>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::products {

/// The elements of a vector of n numbers that a rank has: an equal share, in the order of ranks.
Rows elements_of_rank(std::int64_t n, int rank, int ranks);

/// What is added up: of each batch one vector of n numbers, float or double, for each of `count` sums.
template <class Number>
struct Summands {
  std::int64_t batches = 1;
  std::int64_t count = 1;
  std::int64_t n = 0;
  std::function<void(std::int64_t batch, std::int64_t sum, Number* vector)> make;  ///< fills it; not collective
};

/// Collective. Each vector is made by one rank: batches go round the ranks, and where there are fewer batches than
/// ranks the vectors of a batch do. A sum has its batches in their order, in float64, whatever the number of ranks.
/// between: called by all ranks before each round; what it throws, on all of them, ends the sum. sums: of each sum in
/// turn the elements of this rank.
template <class Number>
void sum_over_batches(const Summands<Number>& summands, double* sums, const std::function<void()>& between,
                      const ranks::Communicator& communicator);

}  // namespace hessian_mpi::products
