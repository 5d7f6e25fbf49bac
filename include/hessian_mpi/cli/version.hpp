#pragma once
/// Versions of the project and of the libraries that all its programs run with, for --version and for files.

#include <string>

namespace hessian_mpi::cli {

struct Versions {
  std::string hessian_mpi;
  std::string mpi;
  std::string hdf5;
};

Versions versions();

}  // namespace hessian_mpi::cli
