#include "hessian_mpi/cli/version.hpp"

#include <array>
#include <ctime>

#include "hessian_mpi/hdf5/hdf5.hpp"
#include "hessian_mpi/ranks/communicator.hpp"

namespace hessian_mpi::cli {

Versions versions() {
  return {HESSIAN_MPI_VERSION, ranks::mpi_library_version(), hdf5::library_version()};
}

std::string timestamp() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> buffer{};
  std::strftime(buffer.data(), buffer.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return buffer.data();
}

}  // namespace hessian_mpi::cli
