// The program that solves linear systems: command line, right sides, solution, checks, summary.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "block_selection.hpp"
#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/solvers/cholesky.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"
#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"
#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/linear_solve.hpp"
#include "inverse.hpp"
#include "matrix_operator.hpp"
#include "resumable_run.hpp"
#include "solve_options.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {
namespace {

constexpr std::int64_t counted_at_most = 5000;  // parameters: beyond, counting eigenvalues takes minutes
constexpr std::int64_t steps_for_curvature = 100;

// What all parts of the work need: a system, of the whole matrix or of a block.
struct Work {
  const SolveOptions& options;
  const OpenedMatrix& opened;
  const file::StoredLayout& hessian;
  const ranks::Communicator& world;
  Block block;
  solvers::RightSides right_sides;
  std::int64_t n() const { return block.n; }
  std::int64_t count() const { return static_cast<std::int64_t>(right_sides.size()) / n(); }
  std::uint64_t bytes() const { return bytes_of(hessian, block); }
};

double tolerance_of(const Work& work) {
  return work.options.tolerance.value_or(usual_tolerance(work.opened));
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

const char* name_of(solvers::Solver solver) {
  return solver == solvers::Solver::cg ? "CG" : solver == solvers::Solver::minres ? "MINRES" : "factors";
}

// What the plan begins with.
std::string text_of_system(const Work& work) {
  const auto size = work.world.size();
  return text(work.block.name, work.block.name.empty() ? "" : ": ", work.count(),
              work.count() == 1 ? " right side" : " right sides", " on ", size, size == 1 ? " rank" : " ranks",
              ", damping ", work.options.damping, ", ");
}

// Collective. What factors will take.
solvers::DecompositionCost cost_of_factors(const Work& work) {
  auto cost = solvers::cost_of_dense_solve(work.n(), work.world.size(), solvers::measured_blas_speed());
  cost.seconds = work.world.max(cost.seconds);
  return cost;
}

// Collective. Says what the factors of a block will take, and throws InputError where that is not there.
void plan_dense(const Work& work) {
  if (work.n() <= solvers::small_matrix) return;
  const auto cost = cost_of_factors(work);
  cli::say(work.world, "plan", text_of_system(work) + "Cholesky or LU factors: " + text_of_cost(cost));
  expect_memory(cost.bytes, "smaller blocks", work.world);
}

// Collective. The method, said with what it will take. Throws InputError where there is no memory for what was asked
// for.
solvers::Solver plan(const Work& work) {
  const auto& world = work.world;
  const auto memory = work.opened.memory;
  if (work.opened.network) {
    const auto solver = work.options.solver.value_or(solvers::Solver::minres);
    cli::say(world, "plan",
             text_of_system(work) + text(name_of(solver), ": a product with the network for each iteration"));
    return solver;
  }
  const auto cost = cost_of_factors(work);
  const bool fits = world.max(std::int64_t{cost.bytes > memory_of_rank(world)}) == 0;
  const auto solver = work.options.solver.value_or(fits ? solvers::Solver::dense : solvers::Solver::minres);
  auto words = text_of_system(work);
  if (solver == solvers::Solver::dense) {
    words += "Cholesky or LU factors: " + text_of_cost(cost);
  } else {
    const auto own = work.bytes() / static_cast<std::uint64_t>(world.size());
    words += text(name_of(solver), ": ",
                  own <= memory ? text_of_bytes(own) + " a rank" : "the file is read for every iteration");
  }
  cli::say(world, "plan", words);
  if (solver == solvers::Solver::dense) expect_memory(cost.bytes, "--method minres", world);
  return solver;
}

// What is known of the eigenvalues of A + damping I.
struct Curvature {
  bool positive = true;
  std::optional<std::int64_t> negative;  ///< how many
  std::optional<double> smallest;        ///< where there are negative ones
};

// The solutions of a system, and what is known of them.
struct Solved {
  std::vector<double> solutions;
  solvers::SolveErrors errors;
  Curvature curvature;
  std::string solver;  ///< which routines
  std::optional<double> reciprocal_condition;
  std::optional<std::int64_t> iterations;
};

// Collective. A is read again wherever it was destroyed.
void read(const Work& work, solvers::Half half, solvers::DistributedMatrix& matrix) {
  const Stopwatch watch;
  solvers::read_symmetric_part(work.options.file, half, matrix, work.world, {}, work.block.ranges);
  cli::say(work.world, "read", text(text_of_bytes(work.bytes()), " in ", text_of_seconds(watch.seconds())));
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
Solved solve_densely(const Work& work) {
  const auto& world = work.world;
  const auto [grid_rows, grid_columns] = solvers::nearest_to_square(world.size());
  const solvers::ProcessGrid grid(world, grid_rows, grid_columns);
  auto matrix = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  read(work, solvers::Half::lower, matrix);
  Stopwatch watch;
  solvers::shift(matrix, 1, work.options.damping);
  const solvers::CholeskyFactor factor(matrix, world);
  Solved solved;
  solved.curvature.positive = factor.is_there();
  solvers::DenseSolution found;
  if (factor.is_there()) {
    found.reciprocal_condition = factor.reciprocal_condition();
    world.together([&] { solvers::expect_regular(found.reciprocal_condition, matrix.rows()); });
    found.solutions = factor.solve(work.right_sides);
  } else {
    if (!work.options.right_sides && work.n() <= counted_at_most) solved.curvature = counted_curvature(work, matrix);
    read(work, solvers::Half::both, matrix);
    watch = {};
    found = solvers::solve_dense(matrix, work.options.damping, work.right_sides, world);
  }
  cli::say(world, "solved",
           text("in ", text_of_seconds(watch.seconds()), " by ", factor.is_there() ? "Cholesky" : "LU",
                " factors, condition number about ", 1 / found.reciprocal_condition));
  solved.solver = text("ScaLAPACK ", factor.is_there() ? "pdpotrf, pdpotrs" : "pdgetrf, pdgetrs");
  solved.reciprocal_condition = found.reciprocal_condition;
  solved.solutions = std::move(found.solutions);
  return solved;
}

// Not collective. By all eigenvectors: of a small block, on each rank alone.
Solved solve_small(const Work& work) {
  const auto n = work.n();
  const auto numbers = file::HessianReader(work.options.file).rows_of_block(work.block.ranges, {0, n});
  auto [sums, values, vectors] = solvers::decompose_small(numbers, n);
  for (auto& value : values) value += work.options.damping;
  const auto [least, most] =
      std::minmax_element(values.begin(), values.end(), [](double x, double y) { return std::abs(x) < std::abs(y); });
  Solved solved;
  solved.solver = "LAPACK dsyev";
  solved.reciprocal_condition = std::abs(*most) > 0 ? std::abs(*least) / std::abs(*most) : 0;
  solvers::expect_regular(*solved.reciprocal_condition, static_cast<int>(n));
  const auto negative = std::count_if(values.begin(), values.end(), [](double x) { return x < 0; });
  solved.curvature = {negative == 0, negative, values.front()};
  solved.solutions.resize(work.right_sides.size());
  for (std::int64_t k = 0; k < work.count(); ++k) {
    const auto side = work.right_sides.begin() + k * n;
    for (std::int64_t j = 0; j < n; ++j) {
      const auto vector = vectors.begin() + j * n;
      const double part = std::inner_product(vector, vector + n, side, 0.0) / values[static_cast<std::size_t>(j)];
      for (std::int64_t i = 0; i < n; ++i) solved.solutions[static_cast<std::size_t>(k * n + i)] += part * vector[i];
    }
  }
  return solved;
}

// Collective.
Solved solve_by_products(const Work& work, solvers::Solver solver, solvers::SymmetricOperator& matrix) {
  auto options = work.options.iteration;
  options.solver = solver;
  options.tolerance = tolerance_of(work);
  const Stopwatch watch;
  constexpr double seconds_between_lines = 10;
  PeriodicTimer line(seconds_between_lines);
  auto found = solvers::solve_iteratively(
      matrix, work.options.damping, work.right_sides, options, [&](std::int64_t iteration, double residual) {
        if (!line.is_due()) return;
        cli::say(work.world, "iteration",
                 text(iteration, ": residual ", residual, ", ", text_of_seconds(watch.seconds())));
      });
  Solved solved;
  solved.iterations = std::accumulate(found.iterations.begin(), found.iterations.end(), std::int64_t{0});
  cli::say(work.world, "solved",
           text("in ", text_of_seconds(watch.seconds()), " and ", *solved.iterations, " iterations"));
  solved.solver = text(solvers::slepc_version(), ", ", name_of(solver));
  solved.solutions = std::move(found.solutions);
  return solved;
}

double length(const std::vector<double>& vector) {
  return std::sqrt(std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0));
}

// What the loss is along a step, and what the quadratic model that H makes says of it.
struct AlongStep {
  std::vector<double> multiples{0, 0.125, 0.25, 0.5, 1};
  std::vector<double> losses;
  std::vector<double> of_model;
  double trusted = 0;  ///< the largest multiple up to which they agree
};

// In the file's place or beside it; null where there is none.
products::Network* network_of(const OpenedMatrix& opened) {
  return opened.beside ? &opened.beside->network : opened.network.get();
}

// The model is trusted where it is right about most of the change.
AlongStep along_step(products::Network& network, const std::vector<double>& step, const std::vector<double>& products,
                     const std::vector<double>& minus_gradient) {
  constexpr double part = 0.25;
  AlongStep along;
  along.losses = network.losses_along(step, along.multiples);
  const double rounding = (network.layout().dtype == Precision::float32 ? 1e-6 : 1e-14) * std::abs(along.losses[0]);
  const double slope = -std::inner_product(step.begin(), step.end(), minus_gradient.begin(), 0.0);
  const double curvature = std::inner_product(step.begin(), step.end(), products.begin(), 0.0);
  bool agrees = true;
  for (std::size_t k = 0; k < along.multiples.size(); ++k) {
    const double t = along.multiples[k];
    const double change = t * slope + t * t / 2 * curvature;
    along.of_model.push_back(along.losses[0] + change);
    agrees = agrees && std::abs(along.losses[k] - along.of_model[k]) <= part * std::abs(change) + rounding;
    if (agrees) along.trusted = t;
  }
  return along;
}

// Collective. Says it, and adds it to the result.
void evaluate_step(const Work& work, const Solved& solved, after::ResultFile& result) {
  const auto& world = work.world;
  const auto along = along_step(*network_of(work.opened), solved.solutions, solved.errors.products, work.right_sides);
  for (std::size_t k = 0; k < along.multiples.size(); ++k) {
    cli::say(world, k == 0 ? "along step" : "",
             text(along.multiples[k], " of it: loss ", along.losses[k], ", quadratic model ", along.of_model[k]));
  }
  const auto least = std::min_element(along.losses.begin(), along.losses.end());
  const auto lowest = along.multiples[static_cast<std::size_t>(least - along.losses.begin())];
  const auto words = along.trusted >= 1  ? std::string("can be trusted as far as the step goes")
                     : along.trusted > 0 ? text("can be trusted for ", along.trusted, " of the step, NOT for all of it")
                                         : text("can NOT be trusted for ", along.multiples[1], " of the step");
  cli::say(world, "model",
           text(words, lowest > 0 ? text("; the loss is lowest at ", lowest, " of it")
                                  : "; no loss is lower than at the point: take more --damping"));
  result.add("/along_step/multiple", {along.multiples.size()}, along.multiples);
  result.add("/along_step/loss", {along.losses.size()}, along.losses);
  result.add("/along_step/quadratic_model", {along.of_model.size()}, along.of_model);
  result.describe("/along_step", {{"trusted", along.trusted}});
}

// Newton's step, and by how much the loss changes with it in the quadratic model, which H alone makes, not damping.
// Where that model has no minimum the step leads to a saddle of it, and no change is promised.
void describe_step(const Work& work, const Solved& solved, file::Attributes& attributes) {
  const auto& [options, opened, hessian, world, block, sides] = work;
  const auto& step = solved.solutions;
  const auto& curvature = solved.curvature;
  const double of_value = length(hessian.value);
  auto words = text("length ", length(step));
  if (of_value > 0) words += text(" (that of the parameters is ", of_value, ")");
  attributes.emplace_back("positive_definite", std::int64_t{curvature.positive});
  if (curvature.positive) {
    const auto& products = solved.errors.products;
    const double change = 0.5 * std::inner_product(step.begin(), step.end(), products.begin(), 0.0) -
                          std::inner_product(step.begin(), step.end(), sides.begin(), 0.0);
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

// Collective. A system, whole or of a block, with the errors of its solutions.
Solved solve_one(const Work& work, solvers::Solver solver) {
  const auto& [options, opened, hessian, world, block, sides] = work;
  const bool small = !block.ranges.empty() && work.n() <= solvers::small_matrix;
  const bool dense = solver == solvers::Solver::dense;
  Solved solved;
  // Factors take the memory first, and give it back.
  if (dense) solved = small ? world.together([&] { return solve_small(work); }) : solve_densely(work);
  const auto made = operator_of(opened, block, world);
  auto& matrix = *made;
  if (!dense) solved = solve_by_products(work, solver, matrix);
  const double norm = solvers::estimated_norm(matrix, 0) + std::abs(options.damping);
  solved.errors = solvers::errors_of(matrix, options.damping, norm, sides, solved.solutions);
  if (!options.right_sides && (!dense || (!solved.curvature.positive && !solved.curvature.smallest))) {
    const auto seen = curvature_by_products(work, matrix, norm);
    solved.curvature = {solved.curvature.positive && seen.positive, {}, seen.smallest};
  }
  return solved;
}

// The entries of vectors of the whole that a block has.
std::vector<double> in_block(const std::vector<double>& vectors, std::int64_t n, const Block& block) {
  if (block.ranges.empty()) return vectors;
  std::vector<double> numbers;
  for (auto vector = vectors.begin(); vector != vectors.end(); vector += n) {
    for (const auto& rows : block.ranges) numbers.insert(numbers.end(), vector + rows.begin, vector + rows.end);
  }
  return numbers;
}

// The other way round.
void put_block(const std::vector<double>& numbers, std::int64_t n, const Block& block, std::vector<double>& vectors) {
  auto from = numbers.begin();
  for (auto vector = vectors.begin(); vector != vectors.end(); vector += n) {
    for (const auto& rows : block.ranges) {
      std::copy_n(from, rows.count(), vector + rows.begin);
      from += rows.count();
    }
  }
}

// Joins the residuals of a block, which are in parts of its own right sides, to those of the others.
void add_residuals(const Work& work, const Solved& part, std::vector<double>& squares) {
  for (std::size_t k = 0; k < squares.size(); ++k) {
    const auto side = work.right_sides.begin() + static_cast<std::int64_t>(k) * work.n();
    const double of_side = std::sqrt(std::inner_product(side, side + work.n(), side, 0.0));
    squares[k] += std::pow(part.errors.residuals[k] * (of_side > 0 ? of_side : 1), 2);
  }
}

// Collective. The systems of blocks, one after the other; all else is zero in the solutions.
Solved solve_blocks(const Work& whole, const std::vector<Block>& blocks) {
  const auto n = whole.hessian.matrix.columns;
  Solved all;
  all.solutions.resize(whole.right_sides.size());
  all.errors.products = all.solutions;
  all.curvature = {true, 0, std::numeric_limits<double>::infinity()};
  all.reciprocal_condition = 1;
  std::vector<double> squares(static_cast<std::size_t>(whole.count()));
  std::int64_t left = n;
  for (const auto& block : blocks) {
    cli::say(whole.world, "block", text(block.name, ": ", block.n, " x ", block.n));
    const Work work{whole.options, whole.opened, whole.hessian,
                    whole.world,   block,        in_block(whole.right_sides, n, block)};
    const auto part = solve_one(work, solvers::Solver::dense);
    left -= block.n;
    put_block(part.solutions, n, block, all.solutions);
    put_block(part.errors.products, n, block, all.errors.products);
    add_residuals(work, part, squares);
    all.errors.backward_errors.push_back(worst(part.errors.backward_errors));
    all.reciprocal_condition = std::min(*all.reciprocal_condition, *part.reciprocal_condition);
    const bool counted = part.curvature.positive || part.curvature.negative;
    all.curvature.positive = all.curvature.positive && part.curvature.positive;
    all.curvature.negative = all.curvature.negative && counted
                                 ? std::optional(*all.curvature.negative + part.curvature.negative.value_or(0))
                                 : std::nullopt;
    if (part.curvature.smallest) all.curvature.smallest = std::min(*all.curvature.smallest, *part.curvature.smallest);
    if (all.solver.find(part.solver) == std::string::npos) all.solver += (all.solver.empty() ? "" : "; ") + part.solver;
  }
  if (left > 0) cli::say(whole.world, "zero", text("in all solutions: ", left, " entries that are in no block"));
  for (std::size_t k = 0; k < squares.size(); ++k) {
    const auto side = whole.right_sides.begin() + static_cast<std::int64_t>(k) * n;
    const double of_side = std::sqrt(std::inner_product(side, side + n, side, 0.0));
    all.errors.residuals.push_back(std::sqrt(squares[k]) / (of_side > 0 ? of_side : 1));
  }
  return all;
}

// Collective. Solves, checks and adds to the result; whether the check passed.
bool solve(const Work& work, const std::vector<Block>& blocks, solvers::Solver solver, after::ResultFile& result) {
  const auto& [options, opened, hessian, world, block, sides] = work;
  const auto solved = blocks.empty() ? solve_one(work, solver) : solve_blocks(work, blocks);
  const double residual = worst(solved.errors.residuals);
  const double backward = worst(solved.errors.backward_errors);
  // Factors answer for the backward error; how much of b is left then depends on the condition of A.
  const bool right =
      solver == solvers::Solver::dense ? backward <= solvers::spectrum_tolerance : residual <= 2 * tolerance_of(work);
  cli::say(world, "checked",
           text("|b - (A + damping I) x| / |b| = ", residual, ", backward error ", backward,
                right ? " (within " : " (NOT within ",
                solver == solvers::Solver::dense ? solvers::spectrum_tolerance : 2 * tolerance_of(work), ")"));
  file::Attributes attributes{{"damping", options.damping},
                              {"rhs", options.right_sides.value_or("minus the gradient")},
                              {"solver", solved.solver},
                              {"residual", residual},
                              {"backward_error", backward}};
  if (solved.reciprocal_condition) attributes.emplace_back("reciprocal_condition", *solved.reciprocal_condition);
  if (solved.iterations) attributes.emplace_back("iterations", *solved.iterations);
  if (!blocks.empty()) {
    std::vector<std::string> names;
    names.reserve(blocks.size());
    for (const auto& each : blocks) names.push_back(each.name);
    attributes.emplace_back("blocks", joined(names, "\n"));
  }
  if (!options.right_sides) describe_step(work, solved, attributes);
  const std::vector<std::uint64_t> shape{static_cast<std::uint64_t>(work.count()),
                                         static_cast<std::uint64_t>(work.n())};
  result.add("/solution", shape, solved.solutions);
  result.add("/rhs", shape, sides);
  result.add("/residuals", {shape[0]}, solved.errors.residuals);
  result.describe("/solution", attributes);
  if (!options.right_sides && network_of(opened) != nullptr) evaluate_step(work, solved, result);
  return right;
}

// Throws InputError where an entry is in two blocks.
void expect_apart(const std::vector<Block>& blocks) {
  std::vector<Rows> all;
  for (const auto& block : blocks) all.insert(all.end(), block.ranges.begin(), block.ranges.end());
  std::sort(all.begin(), all.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  for (std::size_t k = 1; k < all.size(); ++k) {
    if (all[k].begin < all[k - 1].end) throw InputError("--block: a parameter is in two blocks");
  }
}

// Collective. The blocks that are to be solved with; none: the whole.
std::vector<Block> blocks_of(const SolveOptions& options, const file::StoredLayout& hessian) {
  auto blocks = blocks_named(options.blocks, hessian);
  if (blocks.empty()) return blocks;
  if (options.inverse.wanted()) throw InputError("--inverse and --logdet are of a whole matrix, not of blocks");
  if (options.solver && *options.solver != solvers::Solver::dense) {
    throw InputError("blocks are solved with by --method dense alone");
  }
  expect_apart(blocks);
  return blocks;
}

ExitCode run_on(const OpenedMatrix& opened, const SolveOptions& options, const ranks::Communicator& world) {
  const auto& hessian = opened.hessian;
  const auto blocks = world.together([&] { return blocks_of(options, hessian); });
  if (options.inverse.wanted()) return inverse(options, hessian, opened.memory, world);
  const Work work{options, opened, hessian, world, {{}, {}, hessian.matrix.columns}, world.together([&] {
                    return right_sides(options, hessian);
                  })};
  if (options.right_sides) after::expect_same_vectors(*options.right_sides, work.right_sides, world);
  auto solver = solvers::Solver::dense;
  if (blocks.empty()) solver = world.together([&] { return plan(work); });
  for (const auto& block : blocks) {
    const Work part{options, opened, hessian, world, block, in_block(work.right_sides, work.n(), block)};
    world.together([&] { plan_dense(part); });
  }
  if (options.plan) return ExitCode::complete;
  after::ResultFile result(options.output, opened.replace, {"hessian_mpi solution", options.file, options.command_line},
                           hessian, 2 * work.right_sides.size() * sizeof(double), world);
  const bool right = solve(work, blocks, solver, result);
  result.publish({{"checks", right ? "passed" : "failed"}});
  cli::say(world, "written", options.output.string());
  return right ? ExitCode::complete : ExitCode::failed;
}

ExitCode run(const SolveOptions& options, const ranks::Communicator& world) {
  return run_resumably("hessian_solve", options, world,
                       {[&](auto between) { return open_matrix("hessian_solve", options, world, std::move(between)); },
                        [&](const OpenedMatrix& opened) { return run_on(opened, options, world); },
                        options.right_sides.value_or(""), "/rhs"});
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_solve", print_solve_help, solvers::slepc_version()}, argc, argv,
                          parse_solve_options, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
