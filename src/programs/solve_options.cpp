#include "solve_options.hpp"

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <ostream>

#include "block_selection.hpp"
#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/run/network_options.hpp"
#include "resumable_run.hpp"
#include "solver_plan.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

po::options_description of_systems() {
  po::options_description described;
  const auto sides = text("right sides of N numbers: ", after::formats_of_vectors,
                          "; minus the gradient of the Hessian's file where absent");
  const auto block_words = text(words_for_blocks, ". By --method dense; x is zero in rows that none of them has");
  described.add_options()("damping", po::value<double>()->default_value(0)->value_name("X"),
                          "added to the diagonal: solves (A + X I) x = b")(
      "rhs", po::value<std::string>()->value_name("FILE"), sides.c_str())(
      "method", po::value<std::string>()->default_value("auto")->value_name("auto, dense, minres or cg"),
      "dense: Cholesky or LU factors, up to N^3 operations, 8 N^2 bytes over all ranks; minres: any A, a pass for each "
      "iteration; cg: positive definite A + X I alone; auto: dense where memory allows it and there is a file, else "
      "minres")(
      "tolerance", po::value<double>()->value_name("X"),
      "of minres and cg: |b - (A + X I) x| / |b|; 1e-8 where absent, 1e-5 of a network in float32, more where "
      "it casts to half")("iterations", po::value<std::int64_t>()->default_value(10'000)->value_name("K"),
                          "of minres and cg: at most")(
      "block", po::value<std::vector<std::string>>()->multitoken()->value_name("NAME..."), block_words.c_str());
  return described;
}

po::options_description of_inverses() {
  po::options_description described;
  described.add_options()(
      "inverse", po::value<std::vector<std::string>>()->multitoken()->value_name("diagonal, PARAMETER... or all"),
      "what to write of B^-1, B = S A + X I with S of --scale and X of --damping: its diagonal, the rows and columns "
      "of "
      "parameters (shell patterns), or all; hessian.inverse.h5 for hessian.h5")(
      "logdet", po::bool_switch(), "the logarithm of the determinant of B")(
      "scale", po::value<double>()->value_name("S"),
      "of --inverse and --logdet: the number of samples makes a mean over samples a sum, whose inverse are variances; "
      "1 "
      "where absent")("pseudo", po::value<double>()->value_name("X"),
                      "of both: leaves out the eigenvalues of B that are at most X times the largest, negative ones "
                      "among them; 0 leaves out those alone that are not positive")(
      "sandwich", po::value<std::string>()->value_name("FILE"),
      "of --inverse: B^-1 S F B^-1 in its place, F being a file of --matrix fisher of the same parameters");
  return described;
}

po::options_description general() {
  po::options_description described;
  after::describe_resources(described, "minres and cg, and of checks");
  describe_resuming(described);
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

void take_inverse_options(const po::variables_map& given, InverseOptions& options) {
  if (given.count("inverse") != 0) options.of = given["inverse"].as<std::vector<std::string>>();
  options.log_determinant = given["logdet"].as<bool>();
  if (given.count("pseudo") != 0) options.pseudo = given["pseudo"].as<double>();
  if (given.count("scale") != 0) options.scale = given["scale"].as<double>();
  if (given.count("sandwich") != 0) options.sandwich = given["sandwich"].as<std::string>();
  for (const auto* name : {"pseudo", "scale"}) {
    if (given.count(name) != 0 && !options.wanted())
      throw InputError(text("--", name, " is of --inverse and --logdet"));
  }
  if (options.sandwich && options.of.empty()) throw InputError("--sandwich is of --inverse");
  for (const auto* name : {"rhs", "method", "tolerance", "iterations"}) {
    if (options.wanted() && !given[name].empty() && !given[name].defaulted()) {
      throw InputError(text("--", name, " is of systems: not with --inverse or --logdet"));
    }
  }
  if (options.pseudo && !(*options.pseudo >= 0 && *options.pseudo < 1)) {
    throw InputError(text("--pseudo ", *options.pseudo, ": a part of the largest eigenvalue, from 0 to less than 1"));
  }
  if (!(options.scale > 0 && std::isfinite(options.scale))) {
    throw InputError(text("--scale ", options.scale, ": it must be positive"));
  }
  for (const auto* word : {"diagonal", "all"}) {
    const bool named = std::find(options.of.begin(), options.of.end(), word) != options.of.end();
    if (named && options.of.size() > 1) throw InputError(text("--inverse ", word, " stands alone"));
  }
}

// What a network has not, and what one beside a file is not for.
void refuse_whole_matrix(const SolveOptions& options) {
  if (options.beside && (options.right_sides || options.inverse.wanted())) {
    throw InputError(
        "a network beside a file is for the loss along Newton's step: leave out --model and --data, or --rhs, "
        "--inverse and --logdet");
  }
  if (options.solver == solvers::Solver::dense) expect_file(options, "--method dense");
  if (!options.blocks.empty()) expect_file(options, "--block");
  if (!options.inverse.of.empty()) expect_file(options, "--inverse");
  if (options.inverse.log_determinant) expect_file(options, "--logdet");
}

}  // namespace

system::UsedFiles SolveOptions::files() const {
  auto used = MatrixOptions::files();
  if (right_sides) used.inputs.emplace_back(after::file_of_vectors(*right_sides));
  if (inverse.sandwich) {
    const auto more = file::files_of_matrix(*inverse.sandwich);
    used.inputs.insert(used.inputs.end(), more.begin(), more.end());
  }
  return used;
}

SolveOptions parse_solve_options(int argc, const char* const* argv) {
  const auto given = after::parse_arguments(
      "hessian_solve", argc, argv,
      po::options_description().add(of_systems()).add(of_inverses()).add(run::network_options({})).add(general()));
  const bool inverse = given.count("inverse") != 0 || given["logdet"].as<bool>();
  SolveOptions options;
  take_matrix_options("hessian_solve", inverse ? "inverse" : "solution", argc, argv, given, {}, options);
  if (options.help || options.version) return options;
  if (given.count("rhs") != 0) options.right_sides = given["rhs"].as<std::string>();
  options.damping = given["damping"].as<double>();
  if (!std::isfinite(options.damping)) throw InputError("--damping must be a finite number");
  options.solver = solver_named(given["method"].as<std::string>());
  if (given.count("tolerance") != 0) options.tolerance = given["tolerance"].as<double>();
  if (options.tolerance && !(*options.tolerance > 0)) throw InputError("--tolerance must be positive");
  options.iteration.most = given["iterations"].as<std::int64_t>();
  if (options.iteration.most < 1) throw InputError("--iterations must be 1 or more");
  if (given.count("block") != 0) options.blocks = given["block"].as<std::vector<std::string>>();
  take_inverse_options(given, options.inverse);
  take_resuming(given, options);
  refuse_whole_matrix(options);
  return options;
}

void print_solve_help(std::ostream& out) {
  out << "hessian_solve: (A + damping I) x = b with the symmetric part A = (H + H^T) / 2 of a finished Hessian, or of "
         "a network's;\n"
         "without --rhs, x is Newton's step from the point at which H was taken. With the file's network beside it, "
         "the\n"
         "loss is evaluated along the step; options of the network that are not given are those of the file, but for "
         "files.\n"
         "Or what statistics ask of A: inverses, whose diagonals are variances, and the logarithm of the "
         "determinant\n\n"
         "  mpirun -n 4 hessian_solve hessian.h5 --damping 1e-3\n"
         "  mpirun -n 4 hessian_solve hessian.h5 --rhs gradients.npy --damping 1e-3 --method minres\n"
         "  mpirun -n 4 hessian_solve hessian.h5 --damping 1e-3 --model net.pt2 --data batch.h5\n"
         "  mpirun -n 4 hessian_solve --model net.pt2 --data batch.h5 --batch-size 16 --damping 1e-2\n"
         "  mpirun -n 4 hessian_solve hessian.h5 --inverse diagonal --scale 1797 --logdet\n\n"
      << cli::text_of_options("Systems", of_systems()) << "\n"
      << cli::text_of_options("Inverses", of_inverses()) << "\n"
      << cli::text_of_options(heading_of_network, run::network_options({})) << "\n"
      << cli::text_of_options("General", general());
}

}  // namespace hessian_mpi::programs
