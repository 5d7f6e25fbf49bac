#include "hessian_mpi/solvers/spectral_density.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace hessian_mpi::solvers {
namespace {

constexpr double widths_around = 5;  // in which a Gaussian is anything
constexpr double points_per_width = 4;
constexpr std::int64_t fewest_points = 1000;
constexpr std::int64_t most_points = 100'000;

struct Range {
  double least;
  double most;
  double width() const { return most - least; }
};

Range range_of(const std::vector<RitzValues>& probes) {
  Range range{probes.front().values.front(), probes.front().values.back()};
  for (const auto& probe : probes) {
    range = {std::min(range.least, probe.values.front()), std::max(range.most, probe.values.back())};
  }
  return range;
}

std::vector<double> grid_over(const Range& range, double sigma) {
  const double begin = range.least - widths_around * sigma;
  const double width = range.width() + 2 * widths_around * sigma;
  const auto points =
      std::clamp(static_cast<std::int64_t>(points_per_width * width / sigma) + 1, fewest_points, most_points);
  std::vector<double> grid;
  for (std::int64_t k = 0; k < points; ++k) {
    grid.push_back(begin + width * static_cast<double>(k) / static_cast<double>(points - 1));
  }
  return grid;
}

std::vector<double> density_of_probe(const RitzValues& probe, const std::vector<double>& grid, double sigma) {
  std::vector<double> density(grid.size());
  const double height = 1 / (sigma * std::sqrt(2 * std::numbers::pi));
  for (std::size_t k = 0; k < probe.values.size(); ++k) {
    const auto begin = std::lower_bound(grid.begin(), grid.end(), probe.values[k] - 2 * widths_around * sigma);
    const auto end = std::upper_bound(grid.begin(), grid.end(), probe.values[k] + 2 * widths_around * sigma);
    for (auto at = begin; at != end; ++at) {
      const double away = (*at - probe.values[k]) / sigma;
      density[static_cast<std::size_t>(at - grid.begin())] += probe.weights[k] * height * std::exp(-0.5 * away * away);
    }
  }
  return density;
}

struct Estimate {
  double mean;
  double error;
};

Estimate mean_and_error(const std::vector<double>& samples) {
  const auto count = static_cast<double>(samples.size());
  const double mean = std::accumulate(samples.begin(), samples.end(), 0.0) / count;
  double squares = 0;
  for (const double sample : samples) squares += (sample - mean) * (sample - mean);
  return {mean, std::sqrt(squares / (count - 1) / count)};
}

}  // namespace

SpectralDensity density_of(std::vector<RitzValues> probes, const std::optional<double>& sigma, std::int64_t steps) {
  SpectralDensity result;
  const auto range = range_of(probes);
  // What the steps can resolve; a spectrum of one point still needs a width.
  const double fitting =
      range.width() > 0 ? range.width() / static_cast<double>(2 * steps) : std::max(std::abs(range.most), 1.0) / 1000;
  result.sigma = sigma.value_or(fitting);
  result.grid = grid_over(range, result.sigma);
  std::vector<std::vector<double>> densities;
  std::vector<double> means;
  for (const auto& probe : probes) {
    densities.push_back(density_of_probe(probe, result.grid, result.sigma));
    means.push_back(std::inner_product(probe.values.begin(), probe.values.end(), probe.weights.begin(), 0.0));
  }
  std::vector<double> samples(probes.size());
  for (std::size_t k = 0; k < result.grid.size(); ++k) {
    for (std::size_t p = 0; p < probes.size(); ++p) samples[p] = densities[p][k];
    const auto [mean, error] = mean_and_error(samples);
    result.density.push_back(mean);
    result.error.push_back(error);
  }
  const auto [mean, error] = mean_and_error(means);
  result.mean_eigenvalue = mean;
  result.mean_error = error;
  result.probes = std::move(probes);
  return result;
}

SpectralDensity spectral_density(SymmetricOperator& matrix, const DensityOptions& options,
                                 const std::function<void(std::int64_t)>& made) {
  const auto starts = random_unit_vectors(matrix, options.probes, options.seed);
  auto found = lanczos(matrix, starts, options.probes, options.steps, made);
  auto density = matrix.communicator().together(
      [&] { return density_of(std::move(found.of_vectors), options.sigma, options.steps); });
  density.orthogonality_error = found.orthogonality_error;
  return density;
}

}  // namespace hessian_mpi::solvers
