#pragma once
/// Files as they lie on the disk.

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

namespace hessian_mpi {

/// All of a file: a std::string, or a std::vector<char>.
template <class Bytes = std::string>
Bytes content_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace hessian_mpi
