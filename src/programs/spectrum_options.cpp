#include "spectrum_options.hpp"

#include <boost/program_options.hpp>
#include <cmath>
#include <ostream>
#include <vector>

#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/tool_options.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

constexpr unsigned line_length = 110;

po::options_description what_to_compute() {
  po::options_description described("What to compute (all eigenvalues, where none of these is given)", line_length);
  described.add_options()("all", po::bool_switch(), "all eigenvalues: N^3 operations, 8 N^2 bytes over all ranks")(
      "largest", po::value<std::int64_t>()->value_name("K"), "the K largest eigenvalues")(
      "smallest", po::value<std::int64_t>()->value_name("K"), "the K smallest, the most negative first")(
      "density", po::bool_switch(), "the density of eigenvalues, with error bars, from random probes")(
      "vectors", po::bool_switch(), "eigenvectors too: 8 N bytes in the file for each");
  return described;
}

po::options_description how_to_compute() {
  po::options_description described("How", line_length);
  described.add_options()("probes", po::value<std::int64_t>()->value_name("P"),
                          "of the density: random vectors, 10 where absent; errors fall with their square root")(
      "steps", po::value<std::int64_t>()->value_name("S"),
      "of the density: Lanczos steps for each, 100 where absent; details come with them")(
      "sigma", po::value<double>()->value_name("X"),
      "of the density: width of the Gaussian it is smoothed by; range / (2 steps) where absent")(
      "seed", po::value<std::uint64_t>()->value_name("S"), "of random vectors; 0 where absent")(
      "tolerance", po::value<double>()->value_name("X"),
      "of the largest and smallest: |A v - lambda v| / |A|; 1e-8 where absent")(
      "memory", po::value<std::string>()->value_name("SIZE"),
      "what a rank's rows may take (512M, 2G), except for --all; larger ones are read again for every product; a "
      "quarter "
      "of free memory / ranks on the node where absent")(
      "threads", po::value<int>()->value_name("T"),
      "of a rank; OMP_NUM_THREADS or its share of the cores where absent");
  return described;
}

po::options_description described_options() {
  po::options_description described("", line_length);
  described.add(what_to_compute()).add(how_to_compute());
  po::options_description general("General", line_length);
  general.add_options()("output,o", po::value<std::string>()->value_name("FILE"),
                        "the file to write; hessian.spectrum.h5 for hessian.h5")(
      "overwrite", po::bool_switch(), "replace an existing file; without it, one is an error and stays untouched")(
      "plan", po::bool_switch(), "say what it will take, and do nothing")(
      "version", po::bool_switch(), "versions of the program and its libraries")("help,h", po::bool_switch(),
                                                                                 "this text");
  return described.add(general);
}

// The value of an option that must be at least so much, where it is given.
template <class Number>
void take(const po::variables_map& given, const char* name, Number least, Number& to) {
  if (given.count(name) == 0) return;
  to = given[name].as<Number>();
  if (to < least) throw InputError(text("--", name, ' ', to, ": ", least, " is the least"));
}

void take_positive(const po::variables_map& given, const char* name, double& to) {
  if (given.count(name) == 0) return;
  to = given[name].as<double>();
  if (!(to > 0 && std::isfinite(to))) throw InputError(text("--", name, ' ', to, ": it must be positive"));
}

void take_how(const po::variables_map& given, SpectrumOptions& options) {
  take(given, "probes", std::int64_t{2}, options.of_density.probes);
  take(given, "steps", std::int64_t{1}, options.of_density.steps);
  take(given, "seed", std::uint64_t{0}, options.of_density.seed);
  take_positive(given, "tolerance", options.tolerance);
  if (given.count("sigma") != 0) take_positive(given, "sigma", options.of_density.sigma.emplace());
  if (given.count("threads") != 0) take(given, "threads", 1, options.threads.emplace());
  if (given.count("memory") != 0) options.memory = parse_bytes(given["memory"].as<std::string>());
  for (const auto* name : {"probes", "steps", "sigma"}) {
    if (given.count(name) != 0 && !options.density) throw InputError(text("--", name, " is of --density"));
  }
  if (given.count("tolerance") != 0 && options.largest == 0 && options.smallest == 0) {
    throw InputError("--tolerance is of --largest and --smallest");
  }
}

}  // namespace

SpectrumOptions parse_spectrum_options(int argc, const char* const* argv) {
  const auto given = cli::parse_arguments("hessian_spectrum", argc, argv, described_options());
  SpectrumOptions options;
  options.help = given["help"].as<bool>();
  options.version = given["version"].as<bool>();
  if (options.help || options.version) return options;
  options.file = cli::file_of("hessian_spectrum", given);
  options.output = given.count("output") != 0 ? std::filesystem::path(given["output"].as<std::string>())
                                              : after::name_of_result(options.file, "spectrum");
  take(given, "largest", std::int64_t{1}, options.largest);
  take(given, "smallest", std::int64_t{1}, options.smallest);
  options.density = given["density"].as<bool>();
  options.all = given["all"].as<bool>() || (options.largest == 0 && options.smallest == 0 && !options.density);
  options.vectors = given["vectors"].as<bool>();
  options.plan = given["plan"].as<bool>();
  options.overwrite = given["overwrite"].as<bool>();
  take_how(given, options);
  options.command_line = cli::command_line_of(argc, argv);
  return options;
}

void print_spectrum_help(std::ostream& out) {
  out << "hessian_spectrum: eigenvalues of the symmetric part A = (H + H^T) / 2 of a finished Hessian\n\n"
         "  mpirun -n 4 hessian_spectrum hessian.h5\n"
         "  mpirun -n 4 hessian_spectrum hessian.h5 --largest 20 --smallest 5 --density\n"
      << described_options();
}

}  // namespace hessian_mpi::programs
