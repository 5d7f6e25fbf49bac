#pragma once
/// The command line of hessian_spectrum as a plain struct.

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/solvers/spectral_density.hpp"
#include "matrix_options.hpp"

namespace hessian_mpi::programs {

/// Whether all eigenvalues are looked for as those of a matrix of low rank first.
enum class LowRankTry { automatic, yes, no };

struct SpectrumOptions : MatrixOptions {
  bool all = true;  ///< every eigenvalue: also where nothing else is asked for
  bool vectors = false;
  std::int64_t largest = 0;  ///< how many; 0: not asked for
  std::int64_t smallest = 0;
  bool density = false;
  solvers::DensityOptions of_density;
  std::optional<double> tolerance;  ///< usual_tolerance() where absent
  LowRankTry low_rank = LowRankTry::automatic;
  std::vector<std::string> blocks;  ///< names, as blocks_named() takes them
};

/// Throws InputError naming the option at fault.
SpectrumOptions parse_spectrum_options(int argc, const char* const* argv);

/// The text of --help.
void print_spectrum_help(std::ostream& out);

}  // namespace hessian_mpi::programs
