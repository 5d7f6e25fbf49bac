#pragma once
/// Vectors of which every rank has contiguous elements.

#include <cstdint>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::ranks {

/// Collective. `count` vectors of n numbers, one after the other, made whole on all ranks: each has its elements, those
/// of this rank are `elements`, which follow each other in the order of ranks.
template <class Number>
void complete_vectors(Number* vectors, std::int64_t count, const Rows& elements, std::int64_t n,
                      const Communicator& communicator);

/// Collective. `count` vectors of n numbers, whole on all ranks. elements: those of this rank, which follow each other
/// in the order of ranks; own: of each vector in turn these elements.
std::vector<double> whole_vectors(const double* own, std::int64_t count, const Rows& elements, std::int64_t n,
                                  const Communicator& communicator);

}  // namespace hessian_mpi::ranks
