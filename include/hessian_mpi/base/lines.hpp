#pragma once
/// Text in pieces.

#include <sstream>
#include <string>
#include <vector>

namespace hessian_mpi {

/// What lies between the ends of a text.
inline std::vector<std::string> split(const std::string& all, char end) {
  std::vector<std::string> pieces;
  std::istringstream in(all);
  for (std::string piece; std::getline(in, piece, end);) pieces.push_back(piece);
  return pieces;
}

/// The lines of a text, each without its end.
inline std::vector<std::string> split_lines(const std::string& all) {
  return split(all, '\n');
}

}  // namespace hessian_mpi
