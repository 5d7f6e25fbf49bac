#pragma once
/// Rows of the file against the same rows derived again, by another way than the one that made them.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::run {

/// Collective. The rows are derived again, each on one rank, and compared with what the file has of them: those of a
/// Hessian from the concatenated gradient, those of another matrix by JacobianRows.
/// The largest difference of a row divided by the row's largest number, or a hundredth of `largest` if that is more.
double row_error(const std::filesystem::path& file, const matrix::MatrixShape& shape, const network::Problem& problem,
                 Matrix matrix, const std::vector<std::int64_t>& rows, double largest,
                 const ranks::Communicator& communicator);

/// Not collective. What rounding leaves of some rows (derivative_check.hpp), along a line through the parameters, which
/// are moved and put back: the largest of a row divided by the row's largest number, or `least` if that is more.
double noise_of_rows(network::Problem& problem, Matrix matrix, const matrix::MatrixShape& shape,
                     const std::vector<std::int64_t>& rows, double least);

}  // namespace hessian_mpi::run
