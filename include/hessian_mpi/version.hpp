#pragma once
/// Versions of the program and of the libraries it runs with, for --version and for the file.

#include <string>

namespace hessian_mpi {

struct Versions {
  std::string hessian_mpi;
  std::string libtorch;
  std::string mpi;
  std::string hdf5;
};

Versions versions();

}  // namespace hessian_mpi
