// The program that solves linear systems: command line, right sides, solution, checks, summary.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <optional>
#include <sstream>

#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/solvers/cholesky.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"
#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"
#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/linear_solve.hpp"
#include "inverse.hpp"
#include "solve_options.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {
namespace {

constexpr std::int64_t counted_at_most = 5000;  // parameters: beyond, counting eigenvalues takes minutes
constexpr std::int64_t steps_for_curvature = 100;

// What all parts of the work need.
struct Work {
  const SolveOptions& options;
  const file::StoredLayout& hessian;
  const ranks::Communicator& world;
  solvers::RightSides right_sides;
  std::int64_t n() const { return hessian.matrix.columns; }
  std::int64_t count() const { return static_cast<std::int64_t>(right_sides.size()) / n(); }
};

// Lengths are what solutions are measured by.
void expect_lengths(const solvers::RightSides& sides, std::int64_t n) {
  for (auto side = sides.begin(); side != sides.end(); side += n) {
    if (std::isfinite(std::inner_product(side, side + n, side, 0.0))) continue;
    throw InputError(text("right side ", (side - sides.begin()) / n,
                          " is too long: the sum of the squares of its numbers overflows; divide it by a number, by "
                          "which its solution is divided then too"));
  }
}

solvers::RightSides right_sides(const SolveOptions& options, const file::StoredLayout& hessian) {
  if (options.right_sides) {
    auto sides = after::read_vectors(*options.right_sides, hessian.matrix.columns).numbers;
    expect_lengths(sides, hessian.matrix.columns);
    return sides;
  }
  solvers::RightSides sides;
  for (const double g : hessian.gradient) sides.push_back(-g);
  if (!std::all_of(sides.begin(), sides.end(), [](double x) { return std::isfinite(x); })) {
    throw InputError(text("the gradient in '", options.file.string(), "' has NaN or infinity"));
  }
  expect_lengths(sides, hessian.matrix.columns);
  return sides;
}

// Collective. The method, said with what it will take. Throws InputError where there is no memory for what was asked
// for.
solvers::Solver plan(const Work& work, std::uint64_t memory) {
  const auto& world = work.world;
  const auto speed = solvers::measured_blas_speed();
  auto cost = solvers::cost_of_dense_solve(work.n(), world.size(), speed);
  cost.seconds = world.max(cost.seconds);
  const bool fits = world.max(std::int64_t{cost.bytes > memory_of_rank(world)}) == 0;
  const auto solver = work.options.solver.value_or(fits ? solvers::Solver::dense : solvers::Solver::minres);
  std::ostringstream words;
  words << work.count() << (work.count() == 1 ? " right side" : " right sides") << " on " << world.size()
        << (world.size() == 1 ? " rank" : " ranks") << ", damping " << work.options.damping << ", ";
  if (solver == solvers::Solver::dense) {
    words << "Cholesky or LU factors: " << text_of_cost(cost);
  } else {
    const auto own = static_cast<std::uint64_t>((work.n() / world.size() + 1) * work.hessian.matrix.bytes_of_row());
    words << (solver == solvers::Solver::cg ? "CG" : "MINRES") << ": "
          << (own <= memory ? text_of_bytes(own) + " a rank" : "the file is read for every iteration");
  }
  cli::say(world, "plan", words.str());
  if (solver == solvers::Solver::dense) expect_memory(cost.bytes, "--method minres", world);
  return solver;
}

// What is known of the eigenvalues of A + damping I.
struct Curvature {
  bool positive = true;
  std::optional<std::int64_t> negative;  ///< how many
  std::optional<double> smallest;        ///< where there are negative ones
};

// Collective. A is read again wherever it was destroyed.
void read(const Work& work, solvers::Half half, solvers::DistributedMatrix& matrix) {
  const Stopwatch watch;
  solvers::read_symmetric_part(work.options.file, half, matrix, work.world, {});
  cli::say(work.world, "read",
           text(text_of_bytes(static_cast<std::uint64_t>(work.hessian.matrix.bytes())), " in ",
                text_of_seconds(watch.seconds())));
}

// Collective. Counts: as many operations as four Cholesky factors.
Curvature counted_curvature(const Work& work, solvers::DistributedMatrix& matrix) {
  read(work, solvers::Half::lower, matrix);
  const auto values = solvers::eigenvalues_of(matrix, work.world);
  const double damping = work.options.damping;
  const auto negative = std::count_if(values.begin(), values.end(), [&](double x) { return x + damping < 0; });
  return {false, negative, values.front() + damping};
}

// Collective. Looks for negative eigenvalues by some steps of Lanczos, which find those that stand apart.
Curvature curvature_by_products(const Work& work, solvers::SymmetricOperator& matrix, double norm) {
  const auto start = solvers::random_unit_vectors(matrix, 1, 0);
  const auto steps = std::min(steps_for_curvature, work.n());
  const auto smallest = solvers::lanczos(matrix, start, 1, steps).of_vectors[0].values.front() + work.options.damping;
  return {smallest >= -solvers::spectrum_tolerance * norm, std::nullopt, smallest};
}

// Collective. Factors of Cholesky where A + damping I is positive definite, which this finds out, else of LU.
std::vector<double> solve_densely(const Work& work, Curvature& curvature, file::Attributes& attributes) {
  const auto& world = work.world;
  const auto [grid_rows, grid_columns] = solvers::nearest_to_square(world.size());
  const solvers::ProcessGrid grid(world, grid_rows, grid_columns);
  auto matrix = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  read(work, solvers::Half::lower, matrix);
  Stopwatch watch;
  solvers::shift(matrix, 1, work.options.damping);
  const solvers::CholeskyFactor factor(matrix, world);
  curvature.positive = factor.is_there();
  solvers::DenseSolution found;
  if (curvature.positive) {
    found.reciprocal_condition = factor.reciprocal_condition();
    world.together([&] { solvers::expect_regular(found.reciprocal_condition, matrix.rows()); });
    found.solutions = factor.solve(work.right_sides);
  } else {
    if (!work.options.right_sides && work.n() <= counted_at_most) curvature = counted_curvature(work, matrix);
    read(work, solvers::Half::both, matrix);
    watch = {};
    found = solvers::solve_dense(matrix, work.options.damping, work.right_sides, world);
  }
  cli::say(world, "solved",
           text("in ", text_of_seconds(watch.seconds()), " by ", curvature.positive ? "Cholesky" : "LU",
                " factors, condition number about ", 1 / found.reciprocal_condition));
  attributes.emplace_back("solver", text("ScaLAPACK ", curvature.positive ? "pdpotrf, pdpotrs" : "pdgetrf, pdgetrs"));
  attributes.emplace_back("reciprocal_condition", found.reciprocal_condition);
  return std::move(found.solutions);
}

// Collective.
std::vector<double> solve_by_products(const Work& work, solvers::Solver solver, solvers::SymmetricOperator& matrix,
                                      file::Attributes& attributes) {
  auto options = work.options.iteration;
  options.solver = solver;
  const Stopwatch watch;
  constexpr double seconds_between_lines = 10;
  PeriodicTimer line(seconds_between_lines);
  auto found = solvers::solve_iteratively(
      matrix, work.options.damping, work.right_sides, options, [&](std::int64_t iteration, double residual) {
        if (!line.is_due()) return;
        cli::say(work.world, "iteration",
                 text(iteration, ": residual ", residual, ", ", text_of_seconds(watch.seconds())));
      });
  const auto iterations = std::accumulate(found.iterations.begin(), found.iterations.end(), std::int64_t{0});
  cli::say(work.world, "solved", text("in ", text_of_seconds(watch.seconds()), " and ", iterations, " iterations"));
  attributes.emplace_back("solver",
                          text(solvers::slepc_version(), solver == solvers::Solver::cg ? ", CG" : ", MINRES"));
  attributes.emplace_back("iterations", iterations);
  return std::move(found.solutions);
}

double length(const std::vector<double>& vector) {
  return std::sqrt(std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0));
}

// Newton's step, and by how much the loss changes with it in the quadratic model, which H alone makes, not damping.
// Where that model has no minimum the step leads to a saddle of it, and no change is promised.
void describe_step(const Work& work, const Curvature& curvature, const std::vector<double>& step,
                   const std::vector<double>& product, file::Attributes& attributes) {
  const auto& [options, hessian, world, sides] = work;
  const double of_step = length(step);
  const double of_value = length(hessian.value);
  auto words = text("length ", of_step);
  if (of_value > 0) words += text(" (that of the parameters is ", of_value, ")");
  attributes.emplace_back("positive_definite", std::int64_t{curvature.positive});
  if (curvature.positive) {
    const double change = std::inner_product(step.begin(), step.end(), hessian.gradient.begin(), 0.0) +
                          0.5 * std::inner_product(step.begin(), step.end(), product.begin(), 0.0);
    cli::say(world, "step", words + text(", predicted change of the loss ", change));
    attributes.emplace_back("predicted_change", change);
    return;
  }
  const double least = *curvature.smallest;
  const auto count = curvature.negative ? text(*curvature.negative) : std::string("at least one");
  cli::say(world, "indefinite",
           text("A + damping I has ", count, " of ", work.n(), " eigenvalues below zero, the least ",
                curvature.negative ? "" : "about ", least, "; --damping ", damping_needed(least, options.damping),
                " or more makes it positive definite"));
  cli::say(world, "step", words + ", NOT towards a minimum: the quadratic model has none, and predicts no change");
  attributes.emplace_back("smallest_eigenvalue", least);
  if (curvature.negative) attributes.emplace_back("negative_eigenvalues", *curvature.negative);
}

// The largest; NaN where one is, which std::max_element may pass over.
double worst(const std::vector<double>& errors) {
  double largest = 0;
  for (const double error : errors) {
    if (!(error <= largest)) largest = error;
    if (std::isnan(largest)) break;
  }
  return largest;
}

// Collective. Solves, checks and adds to the result; whether the check passed.
bool solve(const Work& work, solvers::Solver solver, std::uint64_t memory, after::ResultFile& result) {
  const auto& [options, hessian, world, sides] = work;
  file::Attributes attributes{{"damping", options.damping},
                              {"rhs", options.right_sides.value_or("minus the gradient")}};
  std::vector<double> solutions;
  Curvature curvature;
  // Factors take the memory first, and give it back.
  if (solver == solvers::Solver::dense) solutions = solve_densely(work, curvature, attributes);
  solvers::SymmetricOperator matrix(options.file, hessian.matrix, memory, world);
  if (solver != solvers::Solver::dense) solutions = solve_by_products(work, solver, matrix, attributes);
  const double norm = solvers::estimated_norm(matrix, 0) + std::abs(options.damping);
  const auto errors = solvers::errors_of(matrix, options.damping, norm, sides, solutions);
  const double residual = worst(errors.residuals);
  const double backward = worst(errors.backward_errors);
  // LU factors answer for the backward error; how much of b is left then depends on the condition of A.
  const bool right = solver == solvers::Solver::dense ? backward <= solvers::spectrum_tolerance
                                                      : residual <= 2 * options.iteration.tolerance;
  cli::say(world, "checked",
           text("|b - (A + damping I) x| / |b| = ", residual, ", backward error ", backward,
                right ? " (within " : " (NOT within ",
                solver == solvers::Solver::dense ? solvers::spectrum_tolerance : 2 * options.iteration.tolerance, ")"));
  attributes.emplace_back("residual", residual);
  attributes.emplace_back("backward_error", backward);
  if (!options.right_sides) {
    const bool known_so_far = curvature.positive;
    if (solver != solvers::Solver::dense || (!curvature.positive && !curvature.smallest)) {
      curvature = curvature_by_products(work, matrix, norm);
      curvature.positive = curvature.positive && known_so_far;
    }
    describe_step(work, curvature, solutions, errors.products, attributes);
  }
  const std::vector<std::uint64_t> shape{static_cast<std::uint64_t>(work.count()),
                                         static_cast<std::uint64_t>(work.n())};
  result.add("/solution", shape, solutions);
  result.add("/rhs", shape, sides);
  result.add("/residuals", {shape[0]}, errors.residuals);
  result.describe("/solution", attributes);
  return right;
}

ExitCode run(const SolveOptions& options, const ranks::Communicator& world) {
  const auto opened = open_matrix(options, world);
  const auto& hessian = opened.hessian;
  if (options.inverse.wanted()) return inverse(options, hessian, opened.memory, world);
  const Work work{options, hessian, world, world.together([&] { return right_sides(options, hessian); })};
  const auto solver = world.together([&] { return plan(work, opened.memory); });
  if (options.plan) return ExitCode::complete;
  after::ResultFile result(options.output, options.overwrite,
                           {"hessian_mpi solution", options.file, options.command_line}, hessian,
                           2 * work.right_sides.size() * sizeof(double), world);
  const bool right = solve(work, solver, opened.memory, result);
  result.publish({{"checks", right ? "passed" : "failed"}});
  cli::say(world, "written", options.output.string());
  if (right) return ExitCode::complete;
  throw ranks::AgreedError(ExitCode::failed,
                           text("'", options.output.string(), "' is wrong: the check above has failed"));
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_solve", print_solve_help, solvers::slepc_version()}, argc, argv,
                          parse_solve_options, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::programs::start(argc, argv);
}
