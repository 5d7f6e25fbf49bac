#pragma once
/// Rows of the file against the same rows derived again, by another way than the one that made them.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/problem.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

/// Collective. The rows are derived again, each on one rank, and compared with what the file has of them: those of a
/// Hessian from the concatenated gradient, those of another matrix by JacobianRows.
/// The largest difference of a row divided by the row's largest number, or a hundredth of `largest` if that is more.
double row_error(const std::filesystem::path& file, const MatrixShape& shape, const Problem& problem, Matrix matrix,
                 const std::vector<std::int64_t>& rows, double largest, const Communicator& communicator);

}  // namespace hessian_mpi
