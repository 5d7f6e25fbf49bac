// The program that decomposes: command line, plan, eigenvalues, checks, summary.

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <optional>
#include <sstream>

#include "hessian_mpi/dense_eigensolver.hpp"
#include "hessian_mpi/distributed_matrix.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/hessian_file.hpp"
#include "hessian_mpi/node.hpp"
#include "hessian_mpi/options.hpp"
#include "hessian_mpi/parallel_program.hpp"
#include "hessian_mpi/progress.hpp"
#include "hessian_mpi/resources.hpp"
#include "hessian_mpi/result_file.hpp"
#include "hessian_mpi/stopwatch.hpp"
#include "hessian_mpi/version.hpp"

namespace hessian_mpi {
namespace {

namespace po = boost::program_options;

struct SpectrumOptions {
  std::filesystem::path file;
  std::filesystem::path output;
  bool vectors = false;
  std::optional<int> threads;
  bool plan = false;
  bool overwrite = false;
  bool help = false;
  bool version = false;
  std::string command_line;
};

po::options_description described_options() {
  po::options_description described("Options");
  described.add_options()("vectors", po::bool_switch(), "the eigenvectors too: 8 N^2 bytes in the file")(
      "output,o", po::value<std::string>()->value_name("FILE"),
      "the file to write; hessian.spectrum.h5 for hessian.h5")(
      "overwrite", po::bool_switch(), "replace an existing file; without it, one is an error and stays untouched")(
      "threads", po::value<int>()->value_name("T"), "threads of a rank; its share of the node's cores where absent")(
      "plan", po::bool_switch(), "say what it will take, and do nothing")(
      "version", po::bool_switch(), "versions of the program and its libraries")("help,h", po::bool_switch(),
                                                                                 "this text");
  return described;
}

SpectrumOptions parse(int argc, const char* const* argv) {
  po::options_description all = described_options();
  all.add_options()("file", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add("file", -1);
  const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  po::variables_map given;
  try {
    po::store(po::command_line_parser(argc, argv).options(all).positional(positional).style(style).run(), given);
  } catch (const po::error& error) {
    throw InputError(text(error.what(), ": see hessian_spectrum --help"));
  }
  SpectrumOptions options;
  options.help = given["help"].as<bool>();
  options.version = given["version"].as<bool>();
  if (options.help || options.version) return options;
  if (given.count("file") == 0 || given["file"].as<std::vector<std::string>>().size() != 1) {
    throw InputError("name one file of hessian_mpi: see hessian_spectrum --help");
  }
  options.file = given["file"].as<std::vector<std::string>>().front();
  options.output = given.count("output") != 0 ? given["output"].as<std::string>()
                                              : name_of_result(options.file, "spectrum").string();
  options.vectors = given["vectors"].as<bool>();
  options.plan = given["plan"].as<bool>();
  options.overwrite = given["overwrite"].as<bool>();
  if (given.count("threads") != 0) options.threads = given["threads"].as<int>();
  if (options.threads && *options.threads < 1) throw InputError("--threads must be 1 or more");
  options.command_line = command_line_of(argc, argv);
  return options;
}

void print_help(std::ostream& out) {
  out << "hessian_spectrum: eigenvalues of the symmetric part (H + H^T) / 2 of a finished Hessian\n\n"
         "  mpirun -n 4 hessian_spectrum hessian.h5\n\n"
      << described_options();
}

// A line of the report: what, and what of it. Root's alone.
void say(const Communicator& world, const std::string& what, const std::string& words) {
  constexpr std::size_t width = 12;
  if (world.is_root()) std::cout << what << std::string(width - what.size(), ' ') << words << std::endl;
}

// What all parts of the work need.
struct Work {
  const SpectrumOptions& options;
  const StoredLayout& hessian;
  const Communicator& world;
  std::int64_t n() const { return hessian.matrix.columns; }
};

std::string text_of_cost(const DecompositionCost& cost) {
  std::ostringstream out;
  out.precision(2);
  out << text_of_bytes(cost.bytes) << " a rank, " << cost.operations << " operations, about "
      << text_of_seconds(cost.seconds);
  return out.str();
}

// Collective. Throws InputError where the node lacks the memory.
void expect_memory(std::uint64_t bytes, const Communicator& world) {
  const auto there = available_memory() / static_cast<std::uint64_t>(world.ranks_on_node());
  world.together([&] {
    if (bytes <= there) return;
    throw InputError(text("a rank needs ", text_of_bytes(bytes), " and its node has ", text_of_bytes(there),
                          " for each of its ranks: use more nodes"));
  });
}

// Collective. Reads, decomposes, checks and writes; whether the checks passed.
bool all_eigenvalues(const Work& work, ResultFile& result) {
  const auto& world = work.world;
  const auto [grid_rows, grid_columns] = nearest_to_square(world.size());
  const ProcessGrid grid(world, grid_rows, grid_columns);
  DistributedMatrix matrix = square_matrix(grid, work.n());
  Stopwatch watch;
  const auto read = [&] {
    const auto bytes = static_cast<std::uint64_t>(work.hessian.matrix.bytes());
    Progress progress(world.is_root() ? ProgressStyle::automatic : ProgressStyle::none, work.n(), 0, bytes,
                      std::max<std::int64_t>(1, work.n() / world.size()), std::cerr);
    return read_symmetric_part(work.options.file, Half::lower, matrix, world,
                               [&](double rows) { progress.advance(rows); });
  };
  const auto sums = read();
  say(world, "read",
      text(text_of_bytes(static_cast<std::uint64_t>(work.hessian.matrix.bytes())), " in ",
           text_of_seconds(watch.lap())));
  std::optional<DistributedMatrix> vectors;
  if (work.options.vectors) vectors.emplace(square_matrix(grid, work.n()));
  const auto values = vectors ? eigenvalues_and_vectors_of(matrix, *vectors, world) : eigenvalues_of(matrix, world);
  const auto negative = std::count_if(values.begin(), values.end(), [](double x) { return x < 0; });
  say(world, "eigenvalues",
      text(values.size(), " in ", text_of_seconds(watch.lap()), ": from ", values.front(), " to ", values.back(), ", ",
           negative, " negative"));

  const auto errors = errors_of(values, sums);
  bool right = errors.trace <= spectrum_tolerance && errors.frobenius <= spectrum_tolerance;
  Attributes attributes{{"solver", vectors ? "ScaLAPACK pdsyevd" : "ScaLAPACK pdsytrd, LAPACK dsterf"},
                        {"trace_error", errors.trace},
                        {"frobenius_error", errors.frobenius},
                        {"tolerance", spectrum_tolerance}};
  auto checks = text("trace to ", errors.trace, ", Frobenius norm to ", errors.frobenius);
  if (vectors) {
    read();  // it was destroyed
    const auto of_vectors = errors_of(matrix, values, *vectors, world);
    right = right && of_vectors.residual <= spectrum_tolerance && of_vectors.orthogonality <= spectrum_tolerance;
    attributes.emplace_back("residual", of_vectors.residual);
    attributes.emplace_back("orthogonality_error", of_vectors.orthogonality);
    checks += text(", A v = lambda v to ", of_vectors.residual, ", V^T V = I to ", of_vectors.orthogonality);
  }
  say(world, "checked", text(checks, " (", right ? "" : "NOT ", "within ", spectrum_tolerance, ")"));

  const auto n = static_cast<std::uint64_t>(work.n());
  result.add("/eigenvalues", {n}, values);
  result.describe("/eigenvalues", attributes);
  if (vectors) {
    result.reserve("/eigenvectors", {n, n});
    ResultFile::RowWriter writer(result);
    each_column_panel(*vectors, world, [&](const Rows& columns, const double* numbers) {
      writer.write("/eigenvectors", columns, work.n(), numbers);
    });
    writer.close();
  }
  return right;
}

ExitCode run(const SpectrumOptions& options, const Communicator& world) {
  const auto hessian = world.together([&] { return read_complete_layout(options.file); });
  Options of_ranks;
  of_ranks.threads = options.threads;
  const auto resources = resources_of_rank(of_ranks, world);
  use_blas_threads(resources.threads);
  const Work work{options, hessian, world};
  say(world, "matrix",
      text(options.file.string(), ": ", work.n(), " x ", work.n(), ", ", name_of(hessian.matrix.storage)));
  const auto speed = measured_blas_speed();
  auto cost = cost_of_decomposition(work.n(), options.vectors, world.size(), speed);
  cost.seconds = world.max(cost.seconds);
  say(world, "plan",
      text("all eigenvalues", options.vectors ? " and vectors" : "", " on ", world.size(),
           world.size() == 1 ? " rank" : " ranks", ": ", text_of_cost(cost)));
  expect_memory(cost.bytes, world);
  if (options.plan) return ExitCode::complete;

  const auto numbers = static_cast<std::uint64_t>(options.vectors ? work.n() * (work.n() + 1) : work.n());
  ResultFile result(options.output, options.overwrite, {"hessian_mpi spectrum", options.file, options.command_line},
                    hessian, numbers * sizeof(double), world);
  const bool right = all_eigenvalues(work, result);
  result.publish({{"checks", right ? "passed" : "failed"}});
  say(world, "written", options.output.string());
  if (right) return ExitCode::complete;
  throw AgreedError(ExitCode::failed, text("'", options.output.string(), "' is wrong: the checks above have failed"));
}

ExitCode start(int argc, const char* const* argv, const Communicator& world) {
  const auto options = world.together([&] { return parse(argc, argv); });
  if (!options.help && !options.version) return run(options, world);
  if (world.is_root() && options.help) print_help(std::cout);
  if (world.is_root() && options.version) {
    std::cout << "hessian_spectrum " << versions().hessian_mpi << '\n'
              << versions().mpi << "\nHDF5 " << versions().hdf5 << '\n';
  }
  return ExitCode::complete;
}

}  // namespace
}  // namespace hessian_mpi

int main(int argc, char** argv) {
  using namespace hessian_mpi;
  return run_parallel_program("hessian_spectrum", argc, argv,
                              [&](const Communicator& world) { return start(argc, argv, world); });
}
