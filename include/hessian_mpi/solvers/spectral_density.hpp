#pragma once
/// How eigenvalues are distributed, by stochastic Lanczos quadrature: each random probe gives an estimate of the
/// density, smoothed by a Gaussian; their mean is the result, their scatter its error.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/symmetric_operator.hpp"

namespace hessian_mpi::solvers {

struct DensityOptions {
  std::int64_t probes = 10;     ///< two or more, for the errors
  std::int64_t steps = 100;     ///< of Lanczos, for each probe
  std::optional<double> sigma;  ///< of the Gaussian, in units of eigenvalues; from the range and the steps where absent
  std::uint64_t seed = 0;
};

struct SpectralDensity {
  std::vector<double> grid;     ///< equally spaced, wider than the spectrum
  std::vector<double> density;  ///< per unit of eigenvalue: its integral is 1
  std::vector<double> error;    ///< one standard error of the mean over probes
  double sigma = 0;
  std::vector<RitzValues> probes;  ///< what it was made of, for another sigma
  double mean_eigenvalue = 0;      ///< trace / N as the probes see it
  double mean_error = 0;           ///< one standard error of it
  double orthogonality_error = 0;  ///< of the Lanczos bases
};

/// Collective. made: called after every step of all probes with their number so far.
SpectralDensity spectral_density(SymmetricOperator& matrix, const DensityOptions& options,
                                 const std::function<void(std::int64_t)>& made = {});

/// The same from what the probes gave. Not collective.
SpectralDensity density_of(std::vector<RitzValues> probes, const std::optional<double>& sigma, std::int64_t steps);

}  // namespace hessian_mpi::solvers
