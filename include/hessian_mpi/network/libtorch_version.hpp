#pragma once
/// Which LibTorch runs, and which the program was built with. Its classes differ between versions, and the loader of
/// programs takes whatever lies at the library's path by now.

#include <string>

namespace hessian_mpi::network {

/// Version of the LibTorch that is loaded, such as "2.13.0".
std::string libtorch_version();
/// That of the headers that the program was compiled with.
std::string libtorch_of_build();

/// Throws InputError where the loaded version is of another release, 2.14 in the place of 2.13.
void expect_libtorch_of_build(const std::string& loaded);

}  // namespace hessian_mpi::network
