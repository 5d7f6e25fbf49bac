// The program that solves linear systems: command line, right sides, solution, checks, summary.

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <iostream>
#include <numeric>
#include <optional>
#include <sstream>

#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/after/tool_options.hpp"
#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"
#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"
#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/linear_solve.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

struct SolveOptions : after::ResultOptions {
  std::optional<std::string> right_sides;  ///< a file; minus the gradient where absent
  double damping = 0;
  std::optional<solvers::Solver> solver;  ///< dense where it fits where absent
  solvers::IterationOptions iteration;

  system::UsedFiles files() const {
    auto used = ResultOptions::files();
    if (right_sides) used.inputs.emplace_back(after::file_of_vectors(*right_sides));
    return used;
  }
};

po::options_description described_options() {
  po::options_description described;
  const auto sides = text("right sides of N numbers: ", after::formats_of_vectors,
                          "; minus the gradient of the Hessian's file where absent");
  described.add_options()("damping", po::value<double>()->default_value(0)->value_name("X"),
                          "added to the diagonal: solves (A + X I) x = b")(
      "rhs", po::value<std::string>()->value_name("FILE"), sides.c_str())(
      "method", po::value<std::string>()->default_value("auto")->value_name("auto, dense, minres or cg"),
      "dense: LU factors, N^3 operations, 8 N^2 bytes over all ranks; minres: any A, a pass for each iteration; cg: "
      "positive definite A + X I alone; auto: dense where memory allows it, else minres")(
      "tolerance", po::value<double>()->default_value(1e-8)->value_name("X"),
      "of minres and cg: |b - (A + X I) x| / |b|")(
      "iterations", po::value<std::int64_t>()->default_value(10'000)->value_name("K"), "of minres and cg: at most");
  after::describe_resources(described, "minres and cg");
  after::describe_result(described, "solution");
  return described;
}

std::optional<solvers::Solver> solver_named(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "dense") return solvers::Solver::dense;
  if (name == "minres") return solvers::Solver::minres;
  if (name == "cg") return solvers::Solver::cg;
  throw InputError(text("--method ", name, ": auto, dense, minres or cg"));
}

SolveOptions parse(int argc, const char* const* argv) {
  const auto given = after::parse_arguments("hessian_solve", argc, argv, described_options());
  SolveOptions options;
  after::take_result_options("hessian_solve", "solution", argc, argv, given, options);
  if (options.help || options.version) return options;
  if (given.count("rhs") != 0) options.right_sides = given["rhs"].as<std::string>();
  options.damping = given["damping"].as<double>();
  if (!std::isfinite(options.damping)) throw InputError("--damping must be a finite number");
  options.solver = solver_named(given["method"].as<std::string>());
  options.iteration.tolerance = given["tolerance"].as<double>();
  if (!(options.iteration.tolerance > 0)) throw InputError("--tolerance must be positive");
  options.iteration.most = given["iterations"].as<std::int64_t>();
  if (options.iteration.most < 1) throw InputError("--iterations must be 1 or more");
  return options;
}

void print_solve_help(std::ostream& out) {
  out << "hessian_solve: (A + damping I) x = b with the symmetric part A = (H + H^T) / 2 of a finished Hessian;\n"
         "without --rhs, x is Newton's step from the point at which H was taken\n\n"
         "  mpirun -n 4 hessian_solve hessian.h5 --damping 1e-3\n"
         "  mpirun -n 4 hessian_solve hessian.h5 --rhs gradients.npy --damping 1e-3 --method minres\n\n"
      << cli::text_of_options("Options", described_options());
}

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
    words << "LU factors: " << text_of_cost(cost);
  } else {
    const auto own = static_cast<std::uint64_t>((work.n() / world.size() + 1) * work.hessian.matrix.bytes_of_row());
    words << (solver == solvers::Solver::cg ? "CG" : "MINRES") << ": "
          << (own <= memory ? text_of_bytes(own) + " a rank" : "the file is read for every iteration");
  }
  cli::say(world, "plan", words.str());
  if (solver == solvers::Solver::dense) expect_memory(cost.bytes, "--method minres", world);
  return solver;
}

// Collective.
std::vector<double> solve_densely(const Work& work, file::Attributes& attributes) {
  const auto& world = work.world;
  const auto [grid_rows, grid_columns] = solvers::nearest_to_square(world.size());
  const solvers::ProcessGrid grid(world, grid_rows, grid_columns);
  Stopwatch watch;
  auto matrix = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  solvers::read_symmetric_part(work.options.file, solvers::Half::both, matrix, world, {});
  cli::say(world, "read",
           text(text_of_bytes(static_cast<std::uint64_t>(work.hessian.matrix.bytes())), " in ",
                text_of_seconds(watch.lap())));
  auto found = solvers::solve_dense(matrix, work.options.damping, work.right_sides, world);
  cli::say(world, "solved",
           text("in ", text_of_seconds(watch.lap()), ", condition number about ", 1 / found.reciprocal_condition));
  attributes.emplace_back("solver", "ScaLAPACK pdgetrf, pdgetrs");
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

// What Newton's step promises: by how much the loss changes in the quadratic model, which H alone makes, not damping.
double predicted_change(const Work& work, const std::vector<double>& step, const std::vector<double>& product) {
  const auto& gradient = work.hessian.gradient;
  return std::inner_product(step.begin(), step.end(), gradient.begin(), 0.0) +
         0.5 * std::inner_product(step.begin(), step.end(), product.begin(), 0.0);
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
  // Factors take the memory first, and give it back.
  if (solver == solvers::Solver::dense) solutions = solve_densely(work, attributes);
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
    const double length = std::sqrt(std::inner_product(solutions.begin(), solutions.end(), solutions.begin(), 0.0));
    const double change = predicted_change(work, solutions, errors.products);
    cli::say(world, "step", text("length ", length, ", predicted change of the loss ", change));
    attributes.emplace_back("predicted_change", change);
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
  const Work work{options, hessian, world, world.together([&] { return right_sides(options, hessian); })};
  if (options.right_sides) after::expect_same_vectors(*options.right_sides, work.right_sides, world);
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
  return cli::run_program({"hessian_solve", print_solve_help, solvers::slepc_version()}, argc, argv, parse, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::programs::start(argc, argv);
}
