#pragma once
/// The command line of hessian_spectrum as a plain struct.

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>

#include "hessian_mpi/solvers/spectral_density.hpp"

namespace hessian_mpi::programs {

struct SpectrumOptions {
  std::filesystem::path file;
  std::filesystem::path output;
  bool all = true;  ///< every eigenvalue: also where nothing else is asked for
  bool vectors = false;
  std::int64_t largest = 0;  ///< how many; 0: not asked for
  std::int64_t smallest = 0;
  bool density = false;
  solvers::DensityOptions of_density;
  double tolerance = 1e-8;
  std::optional<int> threads;
  std::optional<std::uint64_t> memory;  ///< bytes that a rank's rows may take where they are multiplied
  bool plan = false;
  bool overwrite = false;
  bool help = false;
  bool version = false;
  std::string command_line;
};

/// Throws InputError naming the option at fault.
SpectrumOptions parse_spectrum_options(int argc, const char* const* argv);

/// The text of --help.
void print_spectrum_help(std::ostream& out);

}  // namespace hessian_mpi::programs
