#include "inverse.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <sstream>
#include <utility>

#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/solvers/cholesky.hpp"
#include "hessian_mpi/solvers/congruence.hpp"
#include "hessian_mpi/solvers/dense_eigensolver.hpp"
#include "hessian_mpi/solvers/lanczos.hpp"
#include "hessian_mpi/solvers/linear_solve.hpp"
#include "hessian_mpi/solvers/stored_operator.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {
namespace {

using solvers::DistributedMatrix;

constexpr std::int64_t probes = 2;  // vectors that the check multiplies
constexpr std::int64_t shown = 20;  // entries that are printed, at most
constexpr int digits = 10;          // of the logarithm of the determinant

struct Work {
  const SolveOptions& options;
  const file::StoredLayout& hessian;
  const ranks::Communicator& world;
  std::vector<Rows> ranges;  ///< rows and columns to write
  std::int64_t n() const { return hessian.matrix.columns; }
  std::int64_t count() const {
    return std::accumulate(ranges.begin(), ranges.end(), std::int64_t{0},
                           [](std::int64_t sum, const Rows& rows) { return sum + rows.count(); });
  }
  bool matrix_wanted() const { return !options.inverse.of.empty() && options.inverse.of[0] != "diagonal"; }
};

std::vector<Rows> wanted_ranges(const SolveOptions& options, const file::StoredLayout& hessian) {
  const auto& of = options.inverse.of;
  std::vector<Rows> ranges;
  if (of.empty() || of[0] == "diagonal" || of[0] == "all") return {{0, hessian.matrix.columns}};
  for (const auto& pattern : of) {
    const auto& entries = hessian.index.entries();
    const bool fits = std::any_of(entries.begin(), entries.end(),
                                  [&](const auto& entry) { return matrix::matches_any(entry.name, {pattern}); });
    if (!fits) throw InputError(text("--inverse ", pattern, ": no parameter has such a name; hessian_info lists them"));
  }
  for (const auto& entry : hessian.index.entries()) {
    if (matrix::matches_any(entry.name, of)) matrix::append_run({entry.offset, entry.offset + entry.size}, ranges);
  }
  return ranges;
}

// Throws InputError where the file is none of F.
void expect_sandwich(const Work& work, const file::StoredLayout& middle) {
  const auto& name = *work.options.inverse.sandwich;
  const auto* kind = file::find_attribute<std::string>(middle.attributes, "matrix");
  if (kind == nullptr || *kind != "fisher") {
    throw InputError(text("--sandwich '", name, "' is not of --matrix fisher, but of ", kind ? *kind : "another"));
  }
  const auto& own = work.hessian.index.entries();
  const bool same = std::equal(own.begin(), own.end(), middle.index.entries().begin(), middle.index.entries().end(),
                               [](const auto& a, const auto& b) { return a.name == b.name && a.shape == b.shape; });
  if (!same) {
    throw InputError(text("'", name, "' has other parameters than '", work.options.file.string(),
                          "': make both of one network, with the same --parameters"));
  }
}

// Collective. Says what it will take, and throws InputError where that is not there.
void plan(const Work& work) {
  const auto& [options, hessian, world, ranges] = work;
  const auto& inverse = options.inverse;
  const auto speed = solvers::measured_blas_speed();
  auto cost = inverse.pseudo ? solvers::cost_of_decomposition(work.n(), true, world.size(), speed)
                             : solvers::cost_of_cholesky(work.n(), !inverse.of.empty(), world.size(), speed);
  const double matrices = inverse.sandwich ? 2 : 0;
  const auto n = static_cast<double>(work.n());
  const double cut = work.count() < work.n() ? std::pow(static_cast<double>(work.count()), 2) : 0;
  cost.bytes += static_cast<std::uint64_t>((matrices * n * n + cut) * sizeof(double) / world.size());
  if (inverse.sandwich) {
    cost.operations += 4 * n * n * n;
    cost.seconds += 4 * n * n * n / (speed.many_uses * world.size());
  }
  cost.seconds = world.max(cost.seconds);
  cli::say(world, "plan",
           text(inverse.pseudo ? "eigenvectors" : "Cholesky factors", " on ", world.size(),
                world.size() == 1 ? " rank: " : " ranks: ", text_of_cost(cost)));
  expect_memory(cost.bytes, "--inverse of fewer --parameters of hessian_mpi", world);
}

// Collective. Reads A, its lower half.
solvers::SymmetricSums read(const Work& work, DistributedMatrix& matrix) {
  const Stopwatch watch;
  const auto sums = solvers::read_symmetric_part(work.options.file, solvers::Half::lower, matrix, work.world, {});
  cli::say(work.world, "read",
           text(text_of_bytes(static_cast<std::uint64_t>(work.hessian.matrix.bytes())), " in ",
                text_of_seconds(watch.seconds())));
  return sums;
}

// Collective. What says that B is not positive definite.
std::string words_of_failure(const Work& work, DistributedMatrix& matrix) {
  read(work, matrix);
  auto values = solvers::eigenvalues_of(matrix, work.world);
  const auto& [options, hessian, world, ranges] = work;
  for (auto& value : values) value = options.inverse.scale * value + options.damping;
  const auto negative = std::count_if(values.begin(), values.end(), [](double x) { return x < 0; });
  return text("B = ", options.inverse.scale == 1 ? "" : "scale ",
              "A + damping I is not positive definite: its smallest ", "eigenvalue is ", values.front(), ", ", negative,
              " of ", values.size(), " are negative; use a --damping of more than ",
              damping_needed(values.front(), options.damping), ", or --pseudo, which leaves eigenvalues out");
}

// What was made of B, and vectors by which it is checked: those that B times it is to give back.
struct Made {
  std::vector<double> given;    // to B^-1
  std::vector<double> answers;  // of it
  file::Attributes attributes;
  bool right = true;
};

// Collective. By Cholesky factors; matrix becomes B^-1 where that is asked for.
Made by_factors(const Work& work, DistributedMatrix& matrix) {
  const auto& [options, hessian, world, ranges] = work;
  read(work, matrix);
  const Stopwatch watch;
  solvers::shift(matrix, options.inverse.scale, options.damping);
  solvers::CholeskyFactor factor(matrix, world);
  if (!factor.is_there()) {
    const auto words = words_of_failure(work, matrix);
    world.together([&] { throw RunError(words); });
  }
  Made made;
  const double reciprocal = factor.reciprocal_condition();
  world.together([&] { solvers::expect_regular(reciprocal, matrix.rows(), "leave eigenvalues out with --pseudo"); });
  made.attributes = {{"solver", text("ScaLAPACK pdpotrf", options.inverse.of.empty() ? "" : ", pdpotri")},
                     {"reciprocal_condition", reciprocal},
                     {"log_determinant", factor.log_determinant()}};
  made.given = after::random_signs(probes, {0, work.n()}, 0);
  if (options.inverse.of.empty()) {
    made.answers = factor.solve(made.given);
  } else {
    factor.invert();
    made.answers = solvers::product(matrix, made.given, world);
  }
  cli::say(world, "factors",
           text("in ", text_of_seconds(watch.seconds()), ", condition number about ", 1 / reciprocal));
  return made;
}

// Collective. V_k V_k^T x of the columns of V that are kept.
std::vector<double> projected(const DistributedMatrix& vectors, const std::vector<double>& weights,
                              const std::vector<double>& x, const ranks::Communicator& world) {
  const auto n = weights.size();
  std::vector<double> parts(x.size());
  std::vector<double> sums(x.size());
  for (std::size_t v = 0; v < x.size(); v += n) {
    each_number(vectors, [&](double number, std::int64_t row, std::int64_t column) {
      parts[v + static_cast<std::size_t>(column)] += number * x[v + static_cast<std::size_t>(row)];
    });
  }
  parts = world.sum(std::move(parts));
  for (std::size_t v = 0; v < x.size(); v += n) {
    each_number(vectors, [&](double number, std::int64_t row, std::int64_t column) {
      const auto k = static_cast<std::size_t>(column);
      if (weights[k] > 0) sums[v + static_cast<std::size_t>(row)] += number * parts[v + k];
    });
  }
  return world.sum(std::move(sums));
}

// Collective. By eigenvectors, those left out whose eigenvalues are small or negative.
Made by_eigenvectors(const Work& work, DistributedMatrix& matrix) {
  const auto& [options, hessian, world, ranges] = work;
  const auto sums = read(work, matrix);
  const Stopwatch watch;
  auto vectors = world.together([&] { return solvers::square_matrix(matrix.grid(), work.n()); });
  auto values = solvers::eigenvalues_and_vectors_of(matrix, vectors, world);
  const auto errors = solvers::errors_of(values, sums);
  for (auto& value : values) value = options.inverse.scale * value + options.damping;
  const double threshold = *options.inverse.pseudo * std::max(std::abs(values.front()), std::abs(values.back()));
  std::vector<double> weights;
  double log_determinant = 0;
  std::int64_t kept = 0;
  for (const double value : values) {
    const bool keep = value > threshold;
    weights.push_back(keep ? 1 / value : 0);
    kept += keep ? 1 : 0;
    log_determinant += keep ? std::log(value) : 0;
  }
  const auto negative = std::count_if(values.begin(), values.end(), [](double x) { return x < 0; });
  cli::say(world, "eigenvalues",
           text(values.size(), " of B in ", text_of_seconds(watch.seconds()), ": from ", values.front(), " to ",
                values.back(), ", ", negative, " negative"));
  cli::say(world, "left out", text(work.n() - kept, " of ", work.n(), " eigenvalues: those up to ", threshold));
  if (kept == 0) {
    world.together([] { throw RunError("no eigenvalue of B is left: choose a smaller --pseudo, or more --damping"); });
  }
  Made made;
  made.right = errors.trace <= solvers::spectrum_tolerance && errors.frobenius <= solvers::spectrum_tolerance;
  made.attributes = {{"solver", std::string("ScaLAPACK pdsyevd")},
                     {"pseudo", *options.inverse.pseudo},
                     {"left_out", work.n() - kept},
                     {"negative_eigenvalues", std::int64_t{negative}},
                     {"log_determinant", log_determinant}};
  made.given = projected(vectors, weights, after::random_signs(probes, {0, work.n()}, 0), world);
  solvers::weighted_sum(vectors, weights, matrix);
  made.answers = solvers::product(matrix, made.given, world);
  return made;
}

// Collective. How far B times the answers is from what was given.
double backward_error(const Work& work, const Made& made, std::uint64_t memory) {
  const auto& [options, hessian, world, ranges] = work;
  solvers::StoredOperator own(options.file, hessian.matrix, memory, world);
  auto given = made.given;
  for (auto& number : given) number /= options.inverse.scale;
  const double damping = options.damping / options.inverse.scale;
  const double norm = solvers::estimated_norm(own, 0) + std::abs(damping);
  const auto errors = solvers::errors_of(own, damping, norm, given, made.answers);
  return *std::max_element(errors.backward_errors.begin(), errors.backward_errors.end());
}

double length(const std::vector<double>& numbers) {
  return std::sqrt(std::inner_product(numbers.begin(), numbers.end(), numbers.begin(), 0.0));
}

// Collective. B^-1 S F B^-1 in place of B^-1, and how far its products are from those of its factors, relative.
std::pair<DistributedMatrix, double> in_sandwich(const Work& work, const file::StoredLayout& middle,
                                                 const DistributedMatrix& inverse, std::uint64_t memory) {
  const auto& [options, hessian, world, ranges] = work;
  const Stopwatch watch;
  auto matrix = world.together([&] { return solvers::square_matrix(inverse.grid(), work.n()); });
  solvers::read_symmetric_part(*options.inverse.sandwich, solvers::Half::lower, matrix, world, {});
  solvers::shift(matrix, options.inverse.scale, 0);
  solvers::sandwich(inverse, matrix);
  const auto given = after::random_signs(1, {0, work.n()}, 1);
  const auto once = solvers::product(inverse, given, world);
  solvers::StoredOperator of_middle(*options.inverse.sandwich, middle.matrix, memory, world);
  auto expected = solvers::errors_of(of_middle, 0, 1, once, once).products;
  for (auto& number : expected) number *= options.inverse.scale;
  expected = solvers::product(inverse, expected, world);
  auto difference = solvers::product(matrix, given, world);
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= expected[i];
  std::vector<double> squares{0};
  each_number(matrix, [&](double number, std::int64_t, std::int64_t) { squares[0] += number * number; });
  const double scale = std::sqrt(world.sum(std::move(squares))[0]) * length(given);
  cli::say(world, "sandwich", text("in ", text_of_seconds(watch.seconds())));
  return {std::move(matrix), scale > 0 ? length(difference) / scale : length(difference)};
}

// Collective.
std::vector<double> diagonal_of(const DistributedMatrix& matrix, const ranks::Communicator& world) {
  std::vector<double> diagonal(static_cast<std::size_t>(matrix.rows()));
  each_number(matrix, [&](double number, std::int64_t row, std::int64_t column) {
    if (row == column) diagonal[static_cast<std::size_t>(row)] = number;
  });
  return world.sum(std::move(diagonal));
}

// The first of them, by the names of their parameters.
void print_diagonal(const Work& work, const std::vector<double>& diagonal) {
  if (work.count() > shown) {
    const auto [least, most] = std::minmax_element(diagonal.begin(), diagonal.end());
    cli::say(work.world, "diagonal", text(diagonal.size(), " numbers, from ", *least, " to ", *most));
    return;
  }
  std::size_t k = 0;
  for (const auto& rows : work.ranges) {
    for (auto row = rows.begin; row < rows.end; ++row, ++k) {
      cli::say(work.world, k == 0 ? "diagonal" : "",
               text(diagonal[k], ", root ", std::sqrt(diagonal[k]), "  ", work.hessian.index.describe(row)));
    }
  }
}

// Collective. What is asked for of the matrix.
void add_inverse(const Work& work, const DistributedMatrix& whole, after::ResultFile& result) {
  std::optional<DistributedMatrix> cut;
  if (work.count() < work.n()) cut.emplace(solvers::principal_part(whole, work.ranges));
  const auto& part = cut ? *cut : whole;
  const auto count = static_cast<std::uint64_t>(work.count());
  const auto diagonal = diagonal_of(part, work.world);
  auto roots = diagonal;
  for (auto& root : roots) root = std::sqrt(root);
  print_diagonal(work, diagonal);
  result.add("/diagonal", {count}, diagonal);
  result.add("/standard_errors", {count}, roots);
  std::vector<double> indices;
  for (const auto& rows : work.ranges) {
    for (auto row = rows.begin; row < rows.end; ++row) indices.push_back(static_cast<double>(row));
  }
  result.add("/indices", {count}, indices);
  if (!work.matrix_wanted()) return;
  result.reserve("/inverse", {count, count});
  after::ResultFile::TileWriter writer(result, "/inverse");
  solvers::each_column_panel(part, work.world, [&](const Rows& columns, const double* numbers) {
    writer.write({static_cast<std::uint64_t>(columns.begin), 0, static_cast<std::uint64_t>(columns.count()), count},
                 numbers);
  });
  writer.finish();
}

std::string text_of_check(double error) {
  return text(error, error <= solvers::spectrum_tolerance ? " (within " : " (NOT within ", solvers::spectrum_tolerance,
              ")");
}

// Collective. Computes, checks and adds to the result; whether the checks passed.
bool compute(const Work& work, const std::optional<file::StoredLayout>& middle, std::uint64_t memory,
             after::ResultFile& result) {
  const auto& [options, hessian, world, ranges] = work;
  const auto [grid_rows, grid_columns] = solvers::nearest_to_square(world.size());
  const solvers::ProcessGrid grid(world, grid_rows, grid_columns);
  auto matrix = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  auto made = options.inverse.pseudo ? by_eigenvectors(work, matrix) : by_factors(work, matrix);
  const double error = backward_error(work, made, memory);
  cli::say(world, "checked", text("B times B^-1 x against x, backward error ", text_of_check(error)));
  made.right = made.right && error <= solvers::spectrum_tolerance;
  made.attributes.insert(made.attributes.end(), {{"damping", options.damping},
                                                 {"scale", options.inverse.scale},
                                                 {"backward_error", error},
                                                 {"tolerance", solvers::spectrum_tolerance}});
  if (options.inverse.log_determinant) {
    std::ostringstream out;
    out.precision(digits);
    out << *file::find_attribute<double>(made.attributes, "log_determinant");
    cli::say(world, "log det B", out.str() + (options.inverse.pseudo ? ", of the eigenvalues that are left" : ""));
  }
  if (middle) {
    auto [outcome, away] = in_sandwich(work, *middle, matrix, memory);
    cli::say(world, "checked", text("products with B^-1 F B^-1 against its factors' to ", text_of_check(away)));
    made.right = made.right && away <= solvers::spectrum_tolerance;
    made.attributes.insert(made.attributes.end(), {{"sandwich", *options.inverse.sandwich},
                                                   {"sandwich_file_id", middle->file_id},
                                                   {"sandwich_sum", file::sum_of(middle->blocks)},
                                                   {"sandwich_error", away}});
    add_inverse(work, outcome, result);
  } else if (!options.inverse.of.empty()) {
    add_inverse(work, matrix, result);
  }
  made.attributes.emplace_back("checks", std::string(made.right ? "passed" : "failed"));
  result.publish(made.attributes);
  return made.right;
}

}  // namespace

ExitCode inverse(const SolveOptions& options, const file::StoredLayout& hessian, std::uint64_t memory,
                 const ranks::Communicator& world) {
  const Work work{options, hessian, world, world.together([&] { return wanted_ranges(options, hessian); })};
  std::optional<file::StoredLayout> middle;
  if (options.inverse.sandwich) {
    middle.emplace(world.together([&] {
      auto layout = file::read_layout(*options.inverse.sandwich);
      expect_sandwich(work, layout);
      return layout;
    }));
  }
  world.together([&] { plan(work); });
  if (options.plan) return ExitCode::complete;
  const auto count = static_cast<std::uint64_t>(work.count());
  after::ResultFile result(options.output, options.overwrite,
                           {"hessian_mpi inverse", options.file, options.command_line}, hessian,
                           (work.matrix_wanted() ? count * count : 3 * count) * sizeof(double), world);
  const bool right = compute(work, middle, memory, result);
  cli::say(world, "written", options.output.string());
  if (right) return ExitCode::complete;
  throw ranks::AgreedError(ExitCode::failed,
                           text("'", options.output.string(), "' is wrong: the checks above have failed"));
}

}  // namespace hessian_mpi::programs
