#pragma once
/// Which rows and columns are which parameter's, as attributes of what has them.

#include <string>

#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"

namespace hessian_mpi::file {

/// Not collective. Sets parameter_names, parameter_offsets, parameter_sizes and parameter_shapes of an object of a
/// file.
void name_parameters(hdf5::File& file, const std::string& object, const matrix::ParameterIndex& index);

}  // namespace hessian_mpi::file
