#pragma once
/// Rows as runs of neighbours, in order, none of them empty and no two of them neighbours. Pure arithmetic.

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

/// Whether a row is one of them.
bool contains(const std::vector<Rows>& runs, std::int64_t row);

}  // namespace hessian_mpi::matrix
