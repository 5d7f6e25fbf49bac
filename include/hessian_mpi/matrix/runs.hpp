#pragma once
/// Rows as runs of neighbours, in order, none of them empty and no two of them neighbours. Pure arithmetic.

#include <cstdint>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::matrix {

/// Rows of both.
std::vector<Rows> common(const std::vector<Rows>& runs, const std::vector<Rows>& others);

/// Runs that may overlap, in order and each row once.
std::vector<Rows> united(std::vector<Rows> runs);
/// Rows of either.
std::vector<Rows> united(std::vector<Rows> runs, const std::vector<Rows>& others);

/// Rows of some runs that the others do not have.
std::vector<Rows> without(const std::vector<Rows>& runs, const std::vector<Rows>& others);

/// How many rows some runs have, and the place of a row of them.
std::int64_t count_of(const std::vector<Rows>& runs);
std::int64_t place_of(std::int64_t row, const std::vector<Rows>& runs);

/// Whether a row is one of them.
bool contains(const std::vector<Rows>& runs, std::int64_t row);

}  // namespace hessian_mpi::matrix
