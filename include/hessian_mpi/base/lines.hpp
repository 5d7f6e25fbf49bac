#pragma once
/// Text as lines.

#include <sstream>
#include <string>
#include <vector>

namespace hessian_mpi {

/// The lines of a text, each without its end.
inline std::vector<std::string> split_lines(const std::string& all) {
  std::vector<std::string> lines;
  std::istringstream in(all);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace hessian_mpi
