#include "hessian_mpi/cli/version.hpp"

#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::cli {

Versions versions() {
  return {HESSIAN_MPI_VERSION, ranks::mpi_library_version(), hdf5::library_version()};
}

}  // namespace hessian_mpi::cli
