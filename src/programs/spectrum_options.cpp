#include "spectrum_options.hpp"

#include <boost/program_options.hpp>
#include <cmath>
#include <ostream>
#include <vector>

#include "block_selection.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/run/network_options.hpp"
#include "resumable_run.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

// That have another meaning here, or none of a network alone.
const std::set<std::string> own_options{"seed"};

po::options_description what_to_compute() {
  po::options_description described;
  described.add_options()("all", po::bool_switch(), "all eigenvalues: N^3 operations, 8 N^2 bytes over all ranks")(
      "largest", po::value<std::int64_t>()->value_name("K"), "the K largest eigenvalues")(
      "smallest", po::value<std::int64_t>()->value_name("K"), "the K smallest, the most negative first")(
      "density", po::bool_switch(), "the density of eigenvalues, with error bars, from random probes")(
      "vectors", po::bool_switch(), "eigenvectors too: 8 N bytes in the file for each")(
      "block", po::value<std::vector<std::string>>()->multitoken()->value_name("NAME..."), words_for_blocks);
  return described;
}

po::options_description how_to_compute() {
  po::options_description described;
  described.add_options()("probes", po::value<std::int64_t>()->value_name("P"),
                          "of the density: random vectors, 10 where absent; errors fall with their square root")(
      "steps", po::value<std::int64_t>()->value_name("S"),
      "of the density: Lanczos steps for each, 100 where absent; details come with them")(
      "sigma", po::value<double>()->value_name("X"),
      "of the density: width of the Gaussian it is smoothed by; range / (2 steps) where absent")(
      "seed", po::value<std::uint64_t>()->value_name("S"),
      "of random vectors, and of a network's random layers; 0 where absent")(
      "tolerance", po::value<double>()->value_name("X"),
      "of the largest and smallest: |A v - lambda v| / |A|; 1e-8 where absent, 1e-5 of a network in float32, more "
      "where it casts to half");
  described.add_options()(
      "low-rank", po::value<std::string>()->default_value("auto")->value_name("auto, yes or no"),
      "of --all: whether the nonzero eigenvalues, with --vectors their eigenvectors alone, are looked for by products "
      "with vectors first, which is much faster where the rank is low, and exact to 1e-6 of the Frobenius norm at "
      "worst, 1e-5 in float32; auto: from 5,000 rows on, without --vectors");
  after::describe_resources(described, "products with vectors");
  describe_resuming(described);
  return described;
}

po::options_description general() {
  po::options_description described;
  after::describe_result(described, "spectrum");
  return described;
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

LowRankTry low_rank_named(const std::string& word) {
  if (word == "auto") return LowRankTry::automatic;
  if (word == "yes") return LowRankTry::yes;
  if (word == "no") return LowRankTry::no;
  throw InputError(text("--low-rank ", word, ": auto, yes or no"));
}

void take_how(const po::variables_map& given, SpectrumOptions& options) {
  options.low_rank = low_rank_named(given["low-rank"].as<std::string>());
  if (options.low_rank == LowRankTry::yes && !options.all) throw InputError("--low-rank yes is of --all");
  take(given, "probes", std::int64_t{2}, options.of_density.probes);
  take(given, "steps", std::int64_t{1}, options.of_density.steps);
  take(given, "seed", std::uint64_t{0}, options.of_density.seed);
  if (given.count("tolerance") != 0) take_positive(given, "tolerance", options.tolerance.emplace());
  if (given.count("sigma") != 0) take_positive(given, "sigma", options.of_density.sigma.emplace());
  for (const auto* name : {"probes", "steps", "sigma"}) {
    if (given.count(name) != 0 && !options.density) throw InputError(text("--", name, " is of --density"));
  }
  if (given.count("tolerance") != 0 && options.largest == 0 && options.smallest == 0) {
    throw InputError("--tolerance is of --largest and --smallest");
  }
}

// What a network has not.
void refuse_whole_matrix(const SpectrumOptions& options) {
  if (options.all)
    expect_file(options, "--all, which is meant where neither --largest, --smallest nor --density is given,");
  if (!options.blocks.empty()) expect_file(options, "--block");
}

}  // namespace

SpectrumOptions parse_spectrum_options(int argc, const char* const* argv) {
  const auto given = after::parse_arguments("hessian_spectrum", argc, argv,
                                            po::options_description()
                                                .add(what_to_compute())
                                                .add(how_to_compute())
                                                .add(run::network_options(own_options))
                                                .add(general()));
  SpectrumOptions options;
  take_matrix_options("hessian_spectrum", "spectrum", argc, argv, given, own_options, options);
  if (options.help || options.version) return options;
  refuse_beside(options);
  take(given, "largest", std::int64_t{1}, options.largest);
  take(given, "smallest", std::int64_t{1}, options.smallest);
  options.density = given["density"].as<bool>();
  options.all = given["all"].as<bool>() || (options.largest == 0 && options.smallest == 0 && !options.density);
  options.vectors = given["vectors"].as<bool>();
  if (given.count("block") != 0) options.blocks = given["block"].as<std::vector<std::string>>();
  take_how(given, options);
  take_resuming(given, options);
  refuse_whole_matrix(options);
  if (options.network) options.network->seed = options.of_density.seed;
  return options;
}

void print_spectrum_help(std::ostream& out) {
  out << "hessian_spectrum: eigenvalues of the symmetric part A = (H + H^T) / 2 of a finished Hessian, or of a "
         "network's\n\n"
         "  mpirun -n 4 hessian_spectrum hessian.h5\n"
         "  mpirun -n 4 hessian_spectrum hessian.h5 --largest 20 --smallest 5 --density\n"
         "  mpirun -n 4 hessian_spectrum --model net.pt2 --data batch.h5 --batch-size 16 --largest 20 --density\n"
         "  mpirun -n 4 hessian_spectrum hessian.h5 --block 'conv*.weight' fc.weight,fc.bias\n\n"
      << cli::text_of_options("What to compute (all eigenvalues, where none of these is given)", what_to_compute())
      << "\n"
      << cli::text_of_options("How", how_to_compute()) << "\n"
      << cli::text_of_options(heading_of_network, run::network_options(own_options)) << "\n"
      << cli::text_of_options("General", general());
}

}  // namespace hessian_mpi::programs
