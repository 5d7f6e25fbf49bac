#pragma once
/// Blocks of the matrix under the names of their two parameters, for programs that browse HDF5 files. Not collective.

#include <cstddef>
#include <string>

#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"

namespace hessian_mpi::file {

/// Up to so many parameters have all their blocks by name; beyond, each has the one by itself: a block takes about a
/// tenth of a millisecond and 500 bytes when the file is made.
constexpr std::size_t most_parameters_with_all_blocks = 32;

/// A name behind /hessian's: h5repack copies in the order of names, and that of HDF5 1.10 crashes where a view comes
/// before what it is a view of.
inline constexpr const char* group_of_named_blocks = "/named_blocks";

/// Makes the group /named_blocks in a new file with the dataset /hessian of all rows: /named_blocks/ROW/COLUMN is the
/// block of two parameters, two-dimensional, both flattened. It is a view: its numbers are those of /hessian, read
/// where they lie, also while they are being written. Parameters without elements have no blocks. Throws RunError.
void create_named_blocks(hdf5::File& file, const matrix::ParameterIndex& index);

/// A parameter's name as the name of a group or dataset: itself but for "/", which becomes %2F, and "%", %25; "." and
/// no name at all become %2E and %.
std::string link_name(const std::string& parameter);

}  // namespace hessian_mpi::file
