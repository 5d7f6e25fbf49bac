#include "hessian_mpi/system/random_id.hpp"

#include <fstream>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::system {

std::string random_id() {
  constexpr const char* source = "/proc/sys/kernel/random/uuid";
  std::ifstream in(source);
  std::string id;
  if (!std::getline(in, id)) throw RunError(text("no random id could be read from '", source, "'"));
  return id;
}

}  // namespace hessian_mpi::system
