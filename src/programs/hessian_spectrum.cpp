// The program that decomposes: command line, plan, eigenvalues, checks, summary.

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <optional>
#include <sstream>
#include <utility>

#include "block_selection.hpp"
#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/solvers/dense_eigensolver.hpp"
#include "hessian_mpi/solvers/distributed_matrix.hpp"
#include "hessian_mpi/solvers/extreme_eigenvalues.hpp"
#include "hessian_mpi/solvers/low_rank.hpp"
#include "hessian_mpi/solvers/spectral_density.hpp"
#include "hessian_mpi/solvers/stored_operator.hpp"
#include "hessian_mpi/solvers/trace_estimate.hpp"
#include "matrix_operator.hpp"
#include "resumable_run.hpp"
#include "solver_plan.hpp"
#include "spectrum_options.hpp"

namespace hessian_mpi::programs {
namespace {

constexpr double seconds_between_lines = 10;
constexpr std::uint64_t gap_of_datasets = 1 << 20;  // between large ones in the file, at most
// Where all eigenvalues take more memory than there is.
constexpr const char* other_ways = "--largest, --smallest and --density";

// What all parts of the work need.
struct Work {
  const SpectrumOptions& options;
  const OpenedMatrix& opened;
  const file::StoredLayout& hessian;
  const ranks::Communicator& world;
  const Block& block;
  std::string group = {};  ///< of the block in the result; empty: that of the whole matrix
  std::int64_t n() const { return block.n; }
  std::uint64_t bytes() const { return bytes_of(hessian, block); }
};

std::string text_of_outcome(bool right, double tolerance) {
  return text(" (", right ? "" : "NOT ", "within ", tolerance, ")");
}

// Collective.
solvers::SymmetricSums read(const Work& work, solvers::DistributedMatrix& matrix) {
  const Stopwatch watch;
  const auto& world = work.world;
  const auto bytes = work.bytes();
  cli::Progress progress(world.is_root() ? ProgressStyle::automatic : ProgressStyle::none, work.n(), 0, bytes,
                         std::max<std::int64_t>(1, work.n() / world.size()), std::cerr);
  const auto sums = solvers::read_symmetric_part(
      work.options.file, solvers::Half::lower, matrix, world, [&](double rows) { progress.advance(rows); },
      work.block.ranges);
  cli::say(world, "read", text(text_of_bytes(bytes), " in ", text_of_seconds(watch.seconds())));
  return sums;
}

// Collective. Column k of vectors becomes row k in the file.
void write_vectors(const solvers::DistributedMatrix& vectors, const Work& work, after::ResultFile& result) {
  const auto n = static_cast<std::uint64_t>(work.n());
  result.reserve(work.group + "/eigenvectors", {n, n});
  after::ResultFile::TileWriter writer(result, work.group + "/eigenvectors");
  solvers::each_column_panel(vectors, work.world, [&](const Rows& columns, const double* numbers) {
    writer.write({static_cast<std::uint64_t>(columns.begin), 0, static_cast<std::uint64_t>(columns.count()), n},
                 numbers);
  });
  writer.finish();
}

// All eigenvalues of a matrix or a block, and how far they are from being that.
struct Decomposition {
  std::vector<double> values;
  solvers::SymmetricSums sums;
  std::string solver;
  solvers::SpectrumErrors errors;
  std::optional<solvers::VectorErrors> of_vectors;
  std::optional<solvers::LowRank> low_rank;
  bool right() const {
    const auto within = [](double error) { return error <= solvers::spectrum_tolerance; };
    if (low_rank) {
      // What is left of A has a trace, too.
      return within(low_rank->orthogonality_error) && largest_residual() <= low_rank->error_bound &&
             low_rank->trace_error <= std::sqrt(static_cast<double>(values.size())) * low_rank->error_bound;
    }
    return within(errors.trace) && within(errors.frobenius) &&
           (!of_vectors || (within(of_vectors->residual) && within(of_vectors->orthogonality)));
  }
  std::int64_t negative() const {
    const double zero = low_rank ? low_rank->error_bound : 0;
    return std::count_if(values.begin(), values.end(), [&](double x) { return x < -zero; });
  }
  double largest_residual() const {  // of a low rank
    const auto& all = low_rank->residuals;
    return all.empty() ? 0 : *std::max_element(all.begin(), all.end());
  }
  file::Attributes attributes() const {
    if (low_rank) {
      return {{"solver", solver},
              {"rank", static_cast<std::int64_t>(low_rank->beyond.size())},
              {"error_bound", low_rank->error_bound},
              {"trace_error", low_rank->trace_error},
              {"orthogonality_error", low_rank->orthogonality_error},
              {"products", low_rank->passes}};
    }
    file::Attributes all{{"solver", solver},
                         {"trace_error", errors.trace},
                         {"frobenius_error", errors.frobenius},
                         {"tolerance", solvers::spectrum_tolerance}};
    if (of_vectors) {
      all.emplace_back("residual", of_vectors->residual);
      all.emplace_back("orthogonality_error", of_vectors->orthogonality);
    }
    return all;
  }
};

bool is_small(const Work& work) {
  return !work.block.ranges.empty() && work.n() <= solvers::small_matrix;
}

bool tries_low_rank(const Work& work) {
  constexpr std::int64_t from = 5000;  // rows: below, ScaLAPACK takes a minute at most, and is exact
  const auto& options = work.options;
  if (!options.all || is_small(work)) return false;
  if (options.low_rank == LowRankTry::automatic) return !options.vectors && work.n() >= from;
  return options.low_rank == LowRankTry::yes;
}

// Collective. The same on all ranks: a network needs the rest, and the file's pages.
std::uint64_t half_of_memory(const Work& work) {
  return static_cast<std::uint64_t>(work.world.min(static_cast<std::int64_t>(memory_of_rank(work.world) / 2)));
}

std::uint64_t bytes_of_low_rank(const Work& work, const solvers::LowRankOptions& options) {
  return solvers::bytes_of_low_rank(work.n() / work.world.size() + 1, work.n(), options);
}

// Collective. So many vectors that trying takes little of the time that ScaLAPACK takes, and half of the memory.
solvers::LowRankOptions low_rank_options(const Work& work) {
  constexpr std::int64_t part_by_default = 16;
  // What the numbers themselves are known to: noise of float32 has the full rank.
  constexpr double of_float32 = 1e-5;
  solvers::LowRankOptions options;
  if (work.hessian.matrix.storage == Precision::float32) options.tolerance = of_float32;
  options.most = work.n() / (work.options.low_rank == LowRankTry::yes ? 2 : part_by_default);
  options.at_once = std::min(options.at_once, std::max<std::int64_t>(1, options.most / 4));
  options.seed = work.options.of_density.seed;
  options.eigenvectors = work.options.vectors;
  const auto half = half_of_memory(work);
  while (options.most > options.at_once && bytes_of_low_rank(work, options) > half)
    options.most -= options.most / 8 + 1;
  return options;
}

// Collective.
solvers::DecompositionCost cost_of_all(const Work& work) {
  auto cost =
      solvers::cost_of_decomposition(work.n(), work.options.vectors, work.world.size(), solvers::measured_blas_speed());
  cost.seconds = work.world.max(cost.seconds);
  return cost;
}

// Collective. Vectors go to the result.
Decomposition decompose(const Work& work, after::ResultFile& result) {
  const auto& world = work.world;
  const auto [grid_rows, grid_columns] = solvers::nearest_to_square(world.size());
  const solvers::ProcessGrid grid(world, grid_rows, grid_columns);
  auto matrix = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  Decomposition found;
  found.sums = read(work, matrix);
  if (!work.options.vectors) {
    found.values = solvers::eigenvalues_of(matrix, world);
    found.solver = "ScaLAPACK pdsytrd, LAPACK dsterf";
    found.errors = solvers::errors_of(found.values, found.sums);
    return found;
  }
  auto vectors = world.together([&] { return solvers::square_matrix(grid, work.n()); });
  found.values = solvers::eigenvalues_and_vectors_of(matrix, vectors, world);
  found.solver = "ScaLAPACK pdsyevd";
  found.errors = solvers::errors_of(found.values, found.sums);
  read(work, matrix);  // it was destroyed
  found.of_vectors = solvers::errors_of(matrix, found.values, vectors, world);
  write_vectors(vectors, work, result);
  return found;
}

// Collective. The same of a small block, by each rank alone.
Decomposition decompose_small(const Work& work, after::ResultFile& result) {
  Decomposition found;
  auto small = work.world.together([&] {
    const auto numbers = file::HessianReader(work.options.file).rows_of_block(work.block.ranges, {0, work.n()});
    auto decomposition = solvers::decompose_small(numbers, work.n());
    if (work.options.vectors) found.of_vectors = solvers::errors_of(numbers, decomposition);
    return decomposition;
  });
  found.errors = solvers::errors_of(small.values, small.sums);
  found.sums = small.sums;
  found.solver = "LAPACK dsyev";
  const auto n = static_cast<std::uint64_t>(work.n());
  if (work.options.vectors) result.add(work.group + "/eigenvectors", {n, n}, small.vectors);
  found.values = std::move(small.values);
  return found;
}

std::string text_of_checks(const Decomposition& found) {
  if (found.low_rank) {
    const auto& low = *found.low_rank;
    const auto of_vectors =
        low.residuals.empty() ? std::string() : text(", |A v - lambda v| at most ", found.largest_residual());
    return text("trace to ", low.trace_error, ", basis orthogonal to ", low.orthogonality_error, of_vectors,
                found.right() ? " (as the bound allows)" : " (NOT as the bound allows)");
  }
  auto checks = text("trace to ", found.errors.trace, ", Frobenius norm to ", found.errors.frobenius);
  if (found.of_vectors) {
    checks +=
        text(", A v = lambda v to ", found.of_vectors->residual, ", V^T V = I to ", found.of_vectors->orthogonality);
  }
  return checks + text_of_outcome(found.right(), solvers::spectrum_tolerance);
}

// Collective. own: of each vector in turn this rank's numbers.
void write_vectors(const std::vector<double>& own, std::size_t count, const std::string& group,
                   const solvers::SymmetricOperator& matrix, after::ResultFile& result) {
  result.reserve(group + "/eigenvectors", {count, static_cast<std::uint64_t>(matrix.size())});
  after::ResultFile::TileWriter writer(result, group + "/eigenvectors");
  const auto numbers = static_cast<std::uint64_t>(matrix.own().count());
  writer.write({0, static_cast<std::uint64_t>(matrix.own().begin), count, numbers}, own.data());
  writer.finish();
}

// Collective. The same of a matrix of low rank, whose other eigenvalues are zero to the bound; none where it has
// another.
std::optional<Decomposition> decompose_low_rank(const Work& work, after::ResultFile& result) {
  const Stopwatch watch;
  const auto& world = work.world;
  solvers::StoredOperator matrix(work.options.file, work.hessian.matrix, work.block.ranges, work.opened.memory, world);
  PeriodicTimer line(seconds_between_lines);
  auto low = solvers::low_rank(matrix, low_rank_options(work), [&](std::int64_t vectors, double left) {
    if (!line.is_due()) return;
    cli::say(world, "low rank", text(vectors, " vectors leave ", left, " of |A|, ", text_of_seconds(watch.seconds())));
  });
  if (!low.found) {
    cli::say(world, "low rank",
             text("no: after ", text_of_seconds(watch.seconds()), " ", low.vectors, " vectors leave ",
                  low.error_bound / low.norm, " of |A|"));
    return std::nullopt;
  }
  Decomposition found;
  found.values = low.values;
  found.sums = {low.trace, low.norm * low.norm, 0};
  found.values.resize(static_cast<std::size_t>(work.n()));
  std::sort(found.values.begin(), found.values.end());
  found.solver = "block Lanczos";
  cli::say(world, "low rank",
           text(low.beyond.size(), " of ", work.n(), " eigenvalues are beyond ", low.error_bound, ", found in ",
                text_of_seconds(watch.seconds()), " by ", low.passes, " passes; all others are zero to that"));
  if (work.options.vectors && !low.beyond.empty()) {
    const auto group = work.group + "/low_rank";
    result.add(group + "/eigenvalues", {low.beyond.size()}, low.beyond);
    result.add(group + "/residuals", {low.beyond.size()}, low.residuals);
    write_vectors(low.eigenvectors, low.beyond.size(), group, matrix, result);
    low.eigenvectors = {};
  }
  found.low_rank = std::move(low);
  return found;
}

// Collective. Reads, decomposes, checks and adds to the result.
Decomposition all_eigenvalues(const Work& work, after::ResultFile& result) {
  const Stopwatch watch;
  std::optional<Decomposition> low;
  if (tries_low_rank(work)) low = decompose_low_rank(work, result);
  if (!low && !is_small(work)) expect_memory(cost_of_all(work).bytes, other_ways, work.world);
  auto found = low ? std::move(*low) : is_small(work) ? decompose_small(work, result) : decompose(work, result);
  cli::say(work.world, "eigenvalues",
           text(found.values.size(), " in ", text_of_seconds(watch.seconds()), ": from ", found.values.front(), " to ",
                found.values.back(), ", ", found.negative(), " negative"));
  cli::say(work.world, "checked", text_of_checks(found));
  auto attributes = found.attributes();
  result.add(work.group + "/eigenvalues", {static_cast<std::uint64_t>(work.n())}, found.values);
  result.describe(work.group + "/eigenvalues", attributes);
  return found;
}

// Collective. One end of the spectrum; whether its check passed.
bool extreme_eigenvalues(solvers::SymmetricOperator& matrix, const solvers::ExtremeOptions& wanted, const Work& work,
                         after::ResultFile& result) {
  const std::string name = wanted.end == solvers::End::largest ? "largest" : "smallest";
  const auto group = work.group + "/" + name;
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
  result.add(group + "/eigenvalues", {count}, found.values);
  result.add(group + "/residuals", {count}, found.residuals);
  result.describe(group, {{"solver", solvers::slepc_version() + ", Krylov-Schur"},
                          {"tolerance", wanted.tolerance},
                          {"norm", wanted.norm},
                          {"residual", worst},
                          {"products", found.passes}});
  if (work.options.vectors) write_vectors(found.vectors, found.values.size(), group, matrix, result);
  return right;
}

void add_probes(const solvers::SpectralDensity& found, std::int64_t steps, const std::string& group,
                after::ResultFile& result) {
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
  result.add(group + "/ritz_values", shape, values);
  result.add(group + "/weights", shape, weights);
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
  const auto trace = solvers::estimated_trace(matrix, options.probes, options.seed);
  const bool right = found.orthogonality_error <= solvers::spectrum_tolerance;
  cli::say(work.world, "density",
           text(options.probes, " probes of ", options.steps, " steps in ", text_of_seconds(watch.seconds()),
                ": mean eigenvalue ", found.mean_eigenvalue, " +- ", found.mean_error));
  cli::say(work.world, "trace",
           text(trace.trace, " +- ", trace.error, " by Hutch++, ", 3 * options.probes, " products"));
  cli::say(work.world, "checked",
           text("Lanczos bases orthogonal to ", found.orthogonality_error) +
               text_of_outcome(right, solvers::spectrum_tolerance));
  const auto group = work.group + "/density";
  result.add(group + "/grid", {found.grid.size()}, found.grid);
  result.add(group + "/density", {found.grid.size()}, found.density);
  result.add(group + "/error", {found.grid.size()}, found.error);
  add_probes(found, options.steps, group, result);
  result.describe(group, {{"sigma", found.sigma},
                          {"probes", options.probes},
                          {"steps", options.steps},
                          {"seed", static_cast<std::int64_t>(options.seed)},
                          {"mean_eigenvalue", found.mean_eigenvalue},
                          {"mean_eigenvalue_error", found.mean_error},
                          {"trace", trace.trace},
                          {"trace_error", trace.error},
                          {"orthogonality_error", found.orthogonality_error}});
  return right;
}

// Collective. Of N numbers over all ranks, in half of the memory.
std::int64_t most_vectors(const Work& work) {
  const auto bytes = static_cast<std::uint64_t>(work.n() / work.world.size() + 1) * sizeof(double);
  return static_cast<std::int64_t>(half_of_memory(work) / bytes);
}

// Collective. What is found by multiplying vectors; whether all checks passed.
bool by_products(const Work& work, after::ResultFile& result) {
  const auto& options = work.options;
  if (options.largest == 0 && options.smallest == 0 && !options.density) return true;
  const auto opened = operator_of(work.opened, work.block, work.world);
  auto& matrix = *opened;
  bool right = true;
  const bool ends = options.largest > 0 || options.smallest > 0;
  const double tolerance = options.tolerance.value_or(usual_tolerance(work.opened));
  const double norm = ends ? solvers::estimated_norm(matrix, options.of_density.seed) : 0;
  for (const auto& [end, count] :
       {std::pair(solvers::End::largest, options.largest), std::pair(solvers::End::smallest, options.smallest)}) {
    if (count == 0) continue;
    const bool passed = extreme_eigenvalues(
        matrix, {end, count, tolerance, norm, options.of_density.seed, most_vectors(work)}, work, result);
    right = right && passed;
  }
  if (options.density) right = density(matrix, work, result) && right;
  return right;
}

// Collective. Says what it will take, and throws InputError where that is not there.
void plan(const Work& work) {
  const auto& [options, opened, hessian, world, block, group] = work;
  const auto memory = opened.memory;
  const auto ranks = text(" on ", world.size(), world.size() == 1 ? " rank: " : " ranks: ");
  if (options.all && !is_small(work)) {
    const auto cost = cost_of_all(work);
    const bool tries = tries_low_rank(work);
    const auto low = tries ? low_rank_options(work) : solvers::LowRankOptions();
    const auto bytes = tries ? bytes_of_low_rank(work, low) : cost.bytes;
    const auto first = tries ? text("a low rank is looked for with ", low.most, " vectors at most, ",
                                    text_of_bytes(bytes), " a rank; else ")
                             : std::string();
    cli::say(world, "plan",
             text(first, "all eigenvalues", options.vectors ? " and vectors" : "", ranks, text_of_cost(cost)));
    expect_memory(bytes, other_ways, world);
  }
  const auto most = std::max(options.largest, options.smallest);
  if (most > work.n()) {
    throw InputError(text(block.name.empty() ? "" : text("block ", block.name, ": "), "there are ", work.n(),
                          " eigenvalues, not ", most));
  }
  if (most == 0 && !options.density) return;
  const auto own_rows = work.n() / world.size() + 1;
  const auto rows =
      opened.network ? 0 : work.bytes() / static_cast<std::uint64_t>(work.n()) * static_cast<std::uint64_t>(own_rows);
  const solvers::ExtremeOptions of_ends{.count = most, .most_vectors = most_vectors(work)};
  const auto vectors = static_cast<std::uint64_t>(most == 0 ? 0 : solvers::vectors_kept(of_ends, work.n()));
  auto bytes = std::max(vectors * static_cast<std::uint64_t>(own_rows) * sizeof(double),
                        options.density ? solvers::bytes_of_lanczos(own_rows, options.of_density.probes,
                                                                    std::min(options.of_density.steps, work.n()))
                                        : 0);
  if (opened.network) {
    cli::say(world, "plan", text("products with the network", ranks, text_of_bytes(bytes), " a rank for vectors"));
    expect_memory(bytes, "fewer eigenvalues, --probes or --steps", world);
    return;
  }
  if (rows <= memory) bytes += rows;
  // Twice two operations for each number: as a row, and as a column.
  const double operations = 4 * static_cast<double>(work.n()) * static_cast<double>(own_rows);
  const double pass = world.max(operations / solvers::measured_blas_speed().one_use);
  cli::say(world, "plan",
           text("products with vectors", ranks, text_of_bytes(bytes), " a rank, about ", text_of_seconds(pass),
                " a product with one vector", rows <= memory ? "" : " and the time to read the file"));
  expect_memory(bytes, other_ways, world);
}

// One number of every block.
struct Table {
  std::vector<double> size;
  std::vector<double> negative;
  std::vector<double> smallest;
  std::vector<double> largest;
  std::vector<double> trace;
  std::vector<double> frobenius_norm;

  void append(const Decomposition& found) {
    const auto& values = found.values;
    size.push_back(static_cast<double>(values.size()));
    negative.push_back(
        static_cast<double>(std::count_if(values.begin(), values.end(), [](double x) { return x < 0; })));
    smallest.push_back(values.front());
    largest.push_back(values.back());
    trace.push_back(found.sums.trace);
    frobenius_norm.push_back(std::sqrt(found.sums.squares));
  }
};

void print(const Table& table, const std::vector<Block>& blocks, const ranks::Communicator& world) {
  std::size_t widest = 0;
  for (const auto& block : blocks) widest = std::max(widest, block.name.size());
  const auto line = [&](const std::string& name, const auto&... cells) {
    std::ostringstream out;
    out << std::left << std::setw(static_cast<int>(widest)) << name << std::right;
    ((out << std::setw(13) << cells), ...);
    cli::say(world, name.empty() ? "blocks" : "", out.str());
  };
  line("", "N", "negative", "smallest", "largest", "trace", "Frobenius");
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    line(blocks[k].name, table.size[k], table.negative[k], table.smallest[k], table.largest[k], table.trace[k],
         table.frobenius_norm[k]);
  }
}

// Collective. What was asked for of each block, and the table of them; whether all checks passed.
bool of_blocks(const std::vector<Block>& blocks, const Work& whole, after::ResultFile& result) {
  Table table;
  bool right = true;
  std::vector<std::string> names;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    const auto& block = blocks[k];
    names.push_back(block.name);
    const Work work{whole.options, whole.opened, whole.hessian, whole.world, block, text("/blocks/", k)};
    cli::say(work.world, "block", text(block.name, ": ", block.n, " x ", block.n));
    right = by_products(work, result) && right;
    if (whole.options.all) {
      const auto found = all_eigenvalues(work, result);
      right = found.right() && right;
      table.append(found);
    }
    result.describe(work.group, {{"name", block.name}});
  }
  if (whole.options.all) {
    print(table, blocks, whole.world);
    for (const auto& [name, column] :
         {std::pair("size", &table.size), std::pair("negative", &table.negative),
          std::pair("smallest", &table.smallest), std::pair("largest", &table.largest),
          std::pair("trace", &table.trace), std::pair("frobenius_norm", &table.frobenius_norm)}) {
      result.add(text("/blocks/", name), {blocks.size()}, *column);
    }
  }
  result.describe("/blocks", {{"names", joined(names, "\n")}});
  return right;
}

ExitCode run_on(const OpenedMatrix& opened, const SpectrumOptions& options, const ranks::Communicator& world) {
  const auto& hessian = opened.hessian;
  const auto blocks = world.together([&] { return blocks_named(options.blocks, hessian); });
  const Block everything{{}, {}, hessian.matrix.columns};
  const Work whole{options, opened, hessian, world, everything};
  std::int64_t numbers = 0;  // of vectors
  for (const auto& block : blocks.empty() ? std::vector<Block>{everything} : blocks) {
    world.together([&] { plan({options, opened, hessian, world, block}); });
    const bool all = options.all && options.low_rank != LowRankTry::yes;  // whose number is not known yet
    const auto vectors = options.vectors ? (all ? block.n : 0) + options.largest + options.smallest : 0;
    numbers += vectors * block.n;
  }
  if (options.plan) return ExitCode::complete;
  after::ResultFile result(
      options.output, opened.replace, {"hessian_mpi spectrum", options.file, options.command_line}, hessian,
      static_cast<std::uint64_t>(numbers) * sizeof(double) + blocks.size() * gap_of_datasets, world);
  bool right = true;
  if (!blocks.empty()) {
    right = of_blocks(blocks, whole, result);
  } else {
    right = by_products(whole, result);
    if (options.all) right = all_eigenvalues(whole, result).right() && right;
  }
  result.publish({{"checks", right ? "passed" : "failed"}});
  cli::say(world, "written", options.output.string());
  return right ? ExitCode::complete : ExitCode::failed;
}

ExitCode run(const SpectrumOptions& options, const ranks::Communicator& world) {
  return run_resumably(
      "hessian_spectrum", options, world,
      {[&](auto between) { return open_matrix("hessian_spectrum", options, world, std::move(between)); },
       [&](const OpenedMatrix& opened) { return run_on(opened, options, world); }});
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_spectrum", print_spectrum_help, solvers::slepc_version()}, argc, argv,
                          parse_spectrum_options, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
