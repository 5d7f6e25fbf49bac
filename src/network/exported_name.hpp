#pragma once
/// Names of arguments as torch.export writes them. Internal to data and exported programs.

#include <algorithm>
#include <cctype>
#include <string>

namespace hessian_mpi::network {

/// In small letters and digits, with _ for everything else.
inline std::string exported_name(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::isalnum(c) != 0 ? static_cast<char>(std::tolower(c)) : '_'; });
  return name;
}

}  // namespace hessian_mpi::network
