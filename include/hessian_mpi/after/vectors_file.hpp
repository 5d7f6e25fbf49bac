#pragma once
/// Vectors that a user gives in a file: a dataset of an HDF5 file, a .npy file of numpy, or text. Not collective,
/// but where it says so.

#include <cstdint>
#include <string>
#include <vector>

#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::after {

/// Vectors of equal length, one after the other.
struct Vectors {
  std::int64_t count = 0;
  std::vector<double> numbers;
};

/// Reads vectors of n numbers. name: "v.npy", of shape (n,) or (count, n), in float32 or float64;
/// "v.h5:path/of/dataset", of the same shapes and any number type; a file of hessian_mpi with rows of samples, which
/// are the vectors; or text with a vector on each line. Throws InputError: no such file, another length, not finite,
/// not complete, of another kind.
Vectors read_vectors(const std::string& name, std::int64_t n);

/// Collective. Throws InputError, as ranks::expect_same_files() does, where ranks have read other numbers under that
/// name.
void expect_same_vectors(const std::string& name, const std::vector<double>& numbers,
                         const ranks::Communicator& communicator);

/// The file that such a name is of.
std::string file_of_vectors(const std::string& name);

/// The formats, for --help.
constexpr const char* formats_of_vectors =
    "a .npy file ([N] or [count, N]), FILE.h5:DATASET, a file of --matrix jacobian or gradients, or text, one a line";

/// Entries `rows` of vectors whose entries are 1 or -1 at random, one vector after the other. The same for the same
/// seed, whichever rows are asked for.
std::vector<double> random_signs(std::int64_t count, const Rows& rows, std::uint64_t seed);

}  // namespace hessian_mpi::after
