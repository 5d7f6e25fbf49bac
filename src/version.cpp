#include "hessian_mpi/version.hpp"

#include <torch/version.h>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/hdf5.hpp"

namespace hessian_mpi {

Versions versions() {
  return {HESSIAN_MPI_VERSION, TORCH_VERSION, mpi_library_version(), hdf5::library_version()};
}

}  // namespace hessian_mpi
