// The program that decomposes: command line, plan, eigenvalues, checks, summary.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <optional>

#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/solvers/dense_eigensolver.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"
#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"
#include "hessian_mpi/solvers/spectral_density.hpp"
#include "hessian_mpi/solvers/symmetric_operator.hpp"
#include "solver_plan.hpp"
#include "spectrum_options.hpp"

namespace hessian_mpi::programs {
namespace {

constexpr double seconds_between_lines = 10;
// Where all eigenvalues take more memory than there is.
constexpr const char* other_ways = "--largest, --smallest and --density";

// What all parts of the work need.
struct Work {
  const SpectrumOptions& options;
  const file::StoredLayout& hessian;
  const ranks::Communicator& world;
  std::int64_t n() const { return hessian.matrix.columns; }
};

std::string text_of_outcome(bool right, double tolerance) {
  return text(" (", right ? "" : "NOT ", "within ", tolerance, ")");
}

// Collective.
solvers::SymmetricSums read(const Work& work, solvers::DistributedMatrix& matrix) {
  const Stopwatch watch;
  const auto& world = work.world;
  const auto bytes = static_cast<std::uint64_t>(work.hessian.matrix.bytes());
  cli::Progress progress(world.is_root() ? ProgressStyle::automatic : ProgressStyle::none, work.n(), 0, bytes,
                         std::max<std::int64_t>(1, work.n() / world.size()), std::cerr);
  const auto sums = solvers::read_symmetric_part(work.options.file, solvers::Half::lower, matrix, world,
                                                 [&](double rows) { progress.advance(rows); });
  cli::say(world, "read", text(text_of_bytes(bytes), " in ", text_of_seconds(watch.seconds())));
  return sums;
}

// Collective. Column k of vectors becomes row k in the file.
void write_vectors(const solvers::DistributedMatrix& vectors, const Work& work, after::ResultFile& result) {
  const auto n = static_cast<std::uint64_t>(work.n());
  result.reserve("/eigenvectors", {n, n});
  after::ResultFile::TileWriter writer(result, "/eigenvectors");
  solvers::each_column_panel(vectors, work.world, [&](const Rows& columns, const double* numbers) {
    writer.write({static_cast<std::uint64_t>(columns.begin), 0, static_cast<std::uint64_t>(columns.count()), n},
                 numbers);
  });
  writer.finish();
}

// Collective. Reads, decomposes, checks and adds to the result; whether the checks passed.
bool all_eigenvalues(const Work& work, after::ResultFile& result) {
  const auto& world = work.world;
  const auto [grid_rows, grid_columns] = solvers::nearest_to_square(world.size());
  const solvers::ProcessGrid grid(world, grid_rows, grid_columns);
  auto matrix = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  const auto sums = read(work, matrix);
  const Stopwatch watch;
  std::optional<solvers::DistributedMatrix> vectors;
  if (work.options.vectors) vectors.emplace(world.together([&] { return solvers::square_matrix(grid, work.n()); }));
  const auto values =
      vectors ? solvers::eigenvalues_and_vectors_of(matrix, *vectors, world) : solvers::eigenvalues_of(matrix, world);
  const auto negative = std::count_if(values.begin(), values.end(), [](double x) { return x < 0; });
  cli::say(world, "eigenvalues",
           text(values.size(), " in ", text_of_seconds(watch.seconds()), ": from ", values.front(), " to ",
                values.back(), ", ", negative, " negative"));

  const auto errors = solvers::errors_of(values, sums);
  bool right = errors.trace <= solvers::spectrum_tolerance && errors.frobenius <= solvers::spectrum_tolerance;
  file::Attributes attributes{{"solver", vectors ? "ScaLAPACK pdsyevd" : "ScaLAPACK pdsytrd, LAPACK dsterf"},
                              {"trace_error", errors.trace},
                              {"frobenius_error", errors.frobenius},
                              {"tolerance", solvers::spectrum_tolerance}};
  auto checks = text("trace to ", errors.trace, ", Frobenius norm to ", errors.frobenius);
  if (vectors) {
    read(work, matrix);  // it was destroyed
    const auto of_vectors = solvers::errors_of(matrix, values, *vectors, world);
    right = right && of_vectors.residual <= solvers::spectrum_tolerance &&
            of_vectors.orthogonality <= solvers::spectrum_tolerance;
    attributes.emplace_back("residual", of_vectors.residual);
    attributes.emplace_back("orthogonality_error", of_vectors.orthogonality);
    checks += text(", A v = lambda v to ", of_vectors.residual, ", V^T V = I to ", of_vectors.orthogonality);
  }
  cli::say(world, "checked", checks + text_of_outcome(right, solvers::spectrum_tolerance));
  result.add("/eigenvalues", {static_cast<std::uint64_t>(work.n())}, values);
  result.describe("/eigenvalues", attributes);
  if (vectors) write_vectors(*vectors, work, result);
  return right;
}

void write_vectors(const solvers::ExtremeEigenvalues& found, const std::string& group,
                   const solvers::SymmetricOperator& matrix, after::ResultFile& result) {
  const auto count = found.values.size();
  const auto own = static_cast<std::uint64_t>(matrix.own().count());
  result.reserve(group + "/eigenvectors", {count, static_cast<std::uint64_t>(matrix.size())});
  after::ResultFile::TileWriter writer(result, group + "/eigenvectors");
  writer.write({0, static_cast<std::uint64_t>(matrix.own().begin), count, own}, found.vectors.data());
  writer.finish();
}

// Collective. One end of the spectrum; whether its check passed.
bool extreme_eigenvalues(solvers::SymmetricOperator& matrix, const solvers::ExtremeOptions& wanted, const Work& work,
                         after::ResultFile& result) {
  const std::string name = wanted.end == solvers::End::largest ? "largest" : "smallest";
  const Stopwatch watch;
  PeriodicTimer line(seconds_between_lines);
  const auto found = extreme_eigenvalues(matrix, wanted, [&](std::int64_t converged, std::int64_t passes) {
    if (!line.is_due()) return;
    cli::say(
        work.world, name,
        text(converged, " of ", wanted.count, " converged, ", passes, " products, ", text_of_seconds(watch.seconds())));
  });
  const double worst = *std::max_element(found.residuals.begin(), found.residuals.end()) / wanted.norm;
  // The norm is an estimate, and the products of the check round in another order.
  const double allowed = 2 * wanted.tolerance;
  const bool right = worst <= allowed;
  cli::say(work.world, name,
           text(wanted.count, " in ", text_of_seconds(watch.seconds()), " and ", found.passes, " products: from ",
                found.values.front(), " to ", found.values.back()));
  cli::say(work.world, "checked", text("A v = lambda v to ", worst, " |A|") + text_of_outcome(right, allowed));
  const auto count = found.values.size();
  result.add("/" + name + "/eigenvalues", {count}, found.values);
  result.add("/" + name + "/residuals", {count}, found.residuals);
  result.describe("/" + name, {{"solver", solvers::slepc_version() + ", Krylov-Schur"},
                               {"tolerance", wanted.tolerance},
                               {"norm", wanted.norm},
                               {"residual", worst},
                               {"products", found.passes}});
  if (work.options.vectors) write_vectors(found, "/" + name, matrix, result);
  return right;
}

void add_probes(const solvers::SpectralDensity& found, std::int64_t steps, after::ResultFile& result) {
  std::vector<double> values;
  std::vector<double> weights;
  for (const auto& probe : found.probes) {
    values.insert(values.end(), probe.values.begin(), probe.values.end());
    weights.insert(weights.end(), probe.weights.begin(), probe.weights.end());
    // A Krylov space that ended before leaves room: values without weight.
    values.resize(values.size() + static_cast<std::size_t>(steps) - probe.values.size(), probe.values.back());
    weights.resize(values.size(), 0.0);
  }
  const std::vector<std::uint64_t> shape{found.probes.size(), static_cast<std::uint64_t>(steps)};
  result.add("/density/ritz_values", shape, values);
  result.add("/density/weights", shape, weights);
}

// Collective. Whether the check passed.
bool density(solvers::SymmetricOperator& matrix, const Work& work, after::ResultFile& result) {
  auto options = work.options.of_density;
  options.steps = std::min(options.steps, work.n());
  const Stopwatch watch;
  PeriodicTimer line(seconds_between_lines);
  const auto found = solvers::spectral_density(matrix, options, [&](std::int64_t steps) {
    if (!line.is_due()) return;
    const double left = watch.seconds() / static_cast<double>(steps) * static_cast<double>(options.steps - steps);
    cli::say(work.world, "density", text("step ", steps, " of ", options.steps, ", ", text_of_seconds(left), " left"));
  });
  const bool right = found.orthogonality_error <= solvers::spectrum_tolerance;
  cli::say(work.world, "density",
           text(options.probes, " probes of ", options.steps, " steps in ", text_of_seconds(watch.seconds()),
                ": mean eigenvalue ", found.mean_eigenvalue, " +- ", found.mean_error));
  cli::say(work.world, "checked",
           text("Lanczos bases orthogonal to ", found.orthogonality_error) +
               text_of_outcome(right, solvers::spectrum_tolerance));
  result.add("/density/grid", {found.grid.size()}, found.grid);
  result.add("/density/density", {found.grid.size()}, found.density);
  result.add("/density/error", {found.grid.size()}, found.error);
  add_probes(found, options.steps, result);
  result.describe("/density", {{"sigma", found.sigma},
                               {"probes", options.probes},
                               {"steps", options.steps},
                               {"seed", static_cast<std::int64_t>(options.seed)},
                               {"mean_eigenvalue", found.mean_eigenvalue},
                               {"mean_eigenvalue_error", found.mean_error},
                               {"orthogonality_error", found.orthogonality_error}});
  return right;
}

// Collective. What is found by multiplying vectors; whether all checks passed.
bool by_products(const Work& work, std::uint64_t memory, after::ResultFile& result) {
  const auto& options = work.options;
  if (options.largest == 0 && options.smallest == 0 && !options.density) return true;
  const Stopwatch watch;
  solvers::SymmetricOperator matrix(options.file, work.hessian.matrix, memory, work.world);
  const auto bytes = text_of_bytes(static_cast<std::uint64_t>(work.hessian.matrix.bytes()));
  cli::say(work.world, "read",
           matrix.in_memory() ? text(bytes, " in ", text_of_seconds(watch.seconds()))
                              : text(bytes, " again for every product: more than --memory"));
  bool right = true;
  const bool ends = options.largest > 0 || options.smallest > 0;
  const double norm = ends ? solvers::estimated_norm(matrix, options.of_density.seed) : 0;
  for (const auto& [end, count] :
       {std::pair(solvers::End::largest, options.largest), std::pair(solvers::End::smallest, options.smallest)}) {
    if (count == 0) continue;
    const bool passed =
        extreme_eigenvalues(matrix, {end, count, options.tolerance, norm, options.of_density.seed}, work, result);
    right = right && passed;
  }
  if (options.density) right = density(matrix, work, result) && right;
  return right;
}

// Collective. Says what it will take, and throws InputError where that is not there.
void plan(const Work& work, std::uint64_t memory) {
  const auto& [options, hessian, world] = work;
  const auto speed = solvers::measured_blas_speed();
  const auto ranks = text(" on ", world.size(), world.size() == 1 ? " rank: " : " ranks: ");
  if (options.all) {
    auto cost = solvers::cost_of_decomposition(work.n(), options.vectors, world.size(), speed);
    cost.seconds = world.max(cost.seconds);
    cli::say(world, "plan", text("all eigenvalues", options.vectors ? " and vectors" : "", ranks, text_of_cost(cost)));
    expect_memory(cost.bytes, other_ways, world);
  }
  const auto most = std::max(options.largest, options.smallest);
  if (most > work.n()) throw InputError(text("there are ", work.n(), " eigenvalues, not ", most));
  if (most == 0 && !options.density) return;
  const auto own_rows = work.n() / world.size() + 1;
  const auto rows = static_cast<std::uint64_t>(own_rows * hessian.matrix.bytes_of_row());
  const auto vectors = static_cast<std::uint64_t>(most == 0 ? 0 : solvers::vectors_kept(most, work.n()));
  auto bytes = std::max(vectors * static_cast<std::uint64_t>(own_rows) * sizeof(double),
                        options.density ? solvers::bytes_of_lanczos(own_rows, options.of_density.probes,
                                                                    std::min(options.of_density.steps, work.n()))
                                        : 0);
  if (rows <= memory) bytes += rows;
  // Twice two operations for each number: as a row, and as a column.
  const double operations = 4 * static_cast<double>(work.n()) * static_cast<double>(own_rows);
  const double pass = world.max(operations / speed.one_use);
  cli::say(world, "plan",
           text("products with vectors", ranks, text_of_bytes(bytes), " a rank, about ", text_of_seconds(pass),
                " a product with one vector", rows <= memory ? "" : " and the time to read the file"));
  expect_memory(bytes, other_ways, world);
}

ExitCode run(const SpectrumOptions& options, const ranks::Communicator& world) {
  const auto opened = open_matrix(options, world);
  const auto& hessian = opened.hessian;
  const Work work{options, hessian, world};
  world.together([&] { plan(work, opened.memory); });
  if (options.plan) return ExitCode::complete;

  const auto vectors = options.vectors ? (options.all ? work.n() : 0) + options.largest + options.smallest : 0;
  after::ResultFile result(options.output, options.overwrite,
                           {"hessian_mpi spectrum", options.file, options.command_line}, hessian,
                           static_cast<std::uint64_t>(vectors * work.n()) * sizeof(double), world);
  bool right = by_products(work, opened.memory, result);
  if (options.all) right = all_eigenvalues(work, result) && right;
  result.publish({{"checks", right ? "passed" : "failed"}});
  cli::say(world, "written", options.output.string());
  if (right) return ExitCode::complete;
  throw ranks::AgreedError(ExitCode::failed,
                           text("'", options.output.string(), "' is wrong: the checks above have failed"));
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_spectrum", print_spectrum_help, solvers::slepc_version()}, argc, argv,
                          parse_spectrum_options, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::programs::start(argc, argv);
}
