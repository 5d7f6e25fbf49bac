#include "hessian_mpi/cli/end_process.hpp"

#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace hessian_mpi::cli {

int end_process(int code) noexcept {
  std::cout.flush();
  std::fflush(nullptr);
  std::_Exit(code);
}

}  // namespace hessian_mpi::cli
