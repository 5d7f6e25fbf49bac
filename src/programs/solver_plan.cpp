#include "solver_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/ranks/resources.hpp"
#include "hessian_mpi/solvers/blas.hpp"

namespace hessian_mpi::programs {

OpenedMatrix open_matrix(const char* program, const MatrixOptions& options, const ranks::Communicator& world,
                         std::function<void()> between) {
  // First: LibTorch may find this BLAS in the place of its own.
  const auto resources = ranks::resources_of_rank(options.threads, options.memory, world);
  solvers::use_blas_threads(resources.threads);
  if (options.network) return open_network(program, options, std::move(between), world);
  auto hessian = world.together([&] { return file::read_layout(options.file, {.all_entries = false}); });
  file::expect_one_file(options.file, hessian, world);
  const auto& matrix = hessian.matrix;
  cli::say(world, "matrix",
           text(options.file.string(), ": ", matrix.columns, " x ", matrix.columns, ", ", name_of(matrix.storage), ", ",
                text_of_bytes(static_cast<std::uint64_t>(matrix.bytes()))));
  auto beside = options.beside ? open_beside(program, options, hessian, world) : nullptr;
  return {options.file, std::move(hessian), resources.memory, nullptr, nullptr, options.overwrite, std::move(beside)};
}

double usual_tolerance(const OpenedMatrix& opened) {
  constexpr double of_float32 = 1e-5;
  constexpr double of_float64 = 1e-8;
  constexpr double epsilons = 10;  // of half and narrower
  if (!opened.network || opened.network->epsilon() <= std::numeric_limits<double>::epsilon()) return of_float64;
  return std::max(of_float32, epsilons * opened.network->epsilon());
}

void expect_file(const MatrixOptions& options, const char* what) {
  if (!options.network) return;
  throw InputError(text(what,
                        " takes the whole matrix, which a network has not: make it by hessian_mpi, and name its "
                        "file in the place of --model"));
}

std::string text_of_cost(const solvers::DecompositionCost& cost) {
  std::ostringstream out;
  out.precision(2);
  out << text_of_bytes(cost.bytes) << " a rank, " << cost.operations << " operations, about "
      << text_of_seconds(cost.seconds);
  return out.str();
}

double damping_needed(double smallest, double damping) {
  const double least = damping - smallest;
  // Three digits, upwards: more than rounding.
  const double unit = std::pow(10, std::floor(std::log10(std::abs(least))) - 2);
  return std::isfinite(unit) && unit > 0 ? std::ceil(least / unit) * unit : least;
}

}  // namespace hessian_mpi::programs
