// The program that multiplies vectors by a stored matrix: command line, one pass, result, summary.

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <functional>
#include <iostream>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hessian_mpi/after/matrix_product.hpp"
#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/after/tool_options.hpp"
#include "hessian_mpi/after/vectors_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/base/stopwatch.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/progress.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/products/kept_products.hpp"
#include "hessian_mpi/ranks/spread_vectors.hpp"
#include "hessian_mpi/run/network_options.hpp"
#include "matrix_options.hpp"
#include "open_network.hpp"
#include "resumable_run.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

struct MultiplyOptions : MatrixOptions {
  std::string vectors;
  bool gradient = false;
  std::int64_t random = 0;
  std::uint64_t seed = 0;

  system::UsedFiles files() const {
    auto used = MatrixOptions::files();
    if (!vectors.empty()) used.inputs.emplace_back(after::file_of_vectors(vectors));
    return used;
  }
};

po::options_description described_options() {
  po::options_description described;
  const auto vectors = text("vectors of N numbers: ", after::formats_of_vectors);
  described.add_options()("vectors,v", po::value<std::string>()->default_value("")->value_name("FILE"),
                          vectors.c_str())("gradient", po::bool_switch(), "the gradient that the file holds")(
      "random", po::value<std::int64_t>()->default_value(0)->value_name("COUNT"), "so many vectors of random signs")(
      "seed", po::value<std::uint64_t>()->default_value(0)->value_name("S"),
      "of --random, and of a network's random layers");
  after::describe_machine(described, "of a network: what a rank may keep of its batches between products");
  describe_resuming(described);
  after::describe_result(described, "product");
  return described;
}

// That have another meaning here.
const std::set<std::string> own_options{"seed"};

MultiplyOptions parse(int argc, const char* const* argv) {
  const auto given =
      after::parse_arguments("hessian_multiply", argc, argv,
                             po::options_description().add(described_options()).add(run::network_options(own_options)));
  MultiplyOptions options;
  take_matrix_options("hessian_multiply", "product", argc, argv, given, own_options, options);
  if (options.help || options.version) return options;
  refuse_beside(options);
  options.vectors = given["vectors"].as<std::string>();
  options.gradient = given["gradient"].as<bool>();
  options.random = given["random"].as<std::int64_t>();
  options.seed = given["seed"].as<std::uint64_t>();
  if (options.network) options.network->seed = options.seed;
  take_resuming(given, options);
  constexpr std::int64_t most_random = 1024;
  if (options.random < 0 || options.random > most_random) {
    throw InputError(text("--random ", options.random, ": from 1 to ", most_random));
  }
  if ((options.vectors.empty() ? 0 : 1) + (options.gradient ? 1 : 0) + (options.random > 0 ? 1 : 0) != 1) {
    throw InputError("say what to multiply: one of --vectors, --gradient and --random");
  }
  return options;
}

void print_multiply_help(std::ostream& out) {
  out << "hessian_multiply: H times vectors, in one pass over a finished file of any size, or by a network without "
         "H\n\n"
         "  mpirun -n 4 hessian_multiply hessian.h5 --vectors v.npy\n"
         "  mpirun -n 4 hessian_multiply --model net.pt2 --data batch.h5 --batch-size 16 --vectors v.npy\n\n"
      << cli::text_of_options("Options", described_options()) << "\n"
      << cli::text_of_options(heading_of_network, run::network_options(own_options))
      << "\nThe result has /vectors and /products, [count, N] in float64, and of a file the trace and the Frobenius "
         "norm "
         "of H.\n";
}

after::Vectors vectors_of(const MultiplyOptions& options, const file::StoredLayout& hessian) {
  if (options.gradient) return {1, hessian.gradient};
  const auto n = hessian.matrix.columns;
  if (options.random > 0) return {options.random, after::random_signs(options.random, {0, n}, options.seed)};
  return after::read_vectors(options.vectors, n);
}

// Numbers whose squares may overflow, as direction and largest number.
struct Scaled {
  double largest = 0;
  std::vector<double> direction;
  double length() const { return largest * direction_length(); }
  double direction_length() const {
    return std::sqrt(std::inner_product(direction.begin(), direction.end(), direction.begin(), 0.0));
  }
};

Scaled scaled(const double* numbers, std::int64_t n) {
  Scaled result{0, {numbers, numbers + n}};
  for (const double number : result.direction) result.largest = std::max(result.largest, std::abs(number));
  if (result.largest == 0) return result;
  for (double& number : result.direction) number /= result.largest;
  return result;
}

// x^T H x / x^T x says how H curves along x; along nothing it says nothing.
std::string text_of_curvature(const Scaled& x, const Scaled& y) {
  if (x.largest == 0) return "";
  const double along = std::inner_product(x.direction.begin(), x.direction.end(), y.direction.begin(), 0.0);
  const double curvature = along / std::pow(x.direction_length(), 2) * (y.largest / x.largest);
  return text(", x.Hx / x.x ", cli::text_of_number(curvature, 6));
}

void print_products(std::ostream& out, const after::Vectors& vectors, const std::vector<double>& products,
                    std::int64_t n) {
  constexpr std::int64_t most = 10;
  for (std::int64_t v = 0; v < std::min(vectors.count, most); ++v) {
    const auto x = scaled(vectors.numbers.data() + v * n, n);
    const auto y = scaled(products.data() + v * n, n);
    cli::print_line(out, text("vector ", v),
                    text("|x| ", cli::text_of_number(x.length(), 6), ", |H x| ", cli::text_of_number(y.length(), 6),
                         text_of_curvature(x, y)));
  }
  if (vectors.count > most) cli::print_line(out, "", text("... and ", vectors.count - most, " more"));
}

// What one pass gives, on all ranks.
struct Products {
  std::vector<double> numbers;
  std::optional<after::MatrixFigures> figures;  ///< of a file
};

// Collective.
Products multiply(const OpenedMatrix& opened, const after::Vectors& vectors, const ranks::Communicator& world) {
  const auto n = opened.hessian.matrix.columns;
  const auto& elements = opened.network->own();
  std::vector<double> own;
  own.reserve(static_cast<std::size_t>(vectors.count * elements.count()));
  for (auto x = vectors.numbers.begin(); x != vectors.numbers.end(); x += n) {
    own.insert(own.end(), x + elements.begin, x + elements.end);
  }
  std::vector<double> products(own.size());
  products::multiply(*opened.network, *opened.kept, products::Match::bits, own.data(), vectors.count, products.data());
  return {ranks::whole_vectors(products.data(), vectors.count, elements, n, world), std::nullopt};
}

// Collective.
Products multiply(const MultiplyOptions& options, const file::StoredLayout& hessian, const after::Vectors& vectors,
                  const ranks::Communicator& world) {
  const auto& matrix = hessian.matrix;
  after::MatrixSums sums(hessian.index);
  const auto own = file::rows_of_rank(matrix, world.rank(), world.size());
  cli::Progress progress(world.is_root() && cli::is_on_terminal() ? ProgressStyle::bar : ProgressStyle::none,
                         matrix.columns, 0, static_cast<std::uint64_t>(matrix.bytes()), own.count(), std::cerr);
  const auto part = world.together([&] {
    return after::MatrixProduct(options.file, matrix, own)
        .times(vectors.numbers, vectors.count, sums,
               [&](std::int64_t rows) { progress.advance(static_cast<double>(rows)); });
  });
  return {after::whole_product(part, vectors.count, matrix, world), sums.all(world)};
}

// The sums that are no finite numbers; nothing where all are.
std::string text_of_overflows(const MultiplyOptions& options, const file::StoredLayout& hessian,
                              const Products& products) {
  if (!products.figures) return "";  // told where they are made
  const auto& norms = products.figures->block_norms;
  const auto& entries = hessian.index.entries();
  for (std::size_t k = 0; k < norms.size(); ++k) {
    if (std::isfinite(norms[k])) continue;
    return text("'", options.file.string(),
                "' has numbers that are not finite, or whose squares overflow, in the rows of ",
                printable(entries[k / entries.size()].name), " and the columns of ",
                printable(entries[k % entries.size()].name));
  }
  if (!std::isfinite(products.figures->frobenius_norm)) return "the sum of the squares of all numbers of H overflows";
  const auto wrong = std::find_if_not(products.numbers.begin(), products.numbers.end(),
                                      [](double number) { return std::isfinite(number); });
  if (wrong == products.numbers.end()) return "";
  const auto place = wrong - products.numbers.begin();
  return text("H times vector ", place / hessian.matrix.columns, " overflows, first in entry ",
              place % hessian.matrix.columns, ": divide the vector by a number");
}

// Collective.
OpenedMatrix open(const MultiplyOptions& options, std::function<void()> between, const ranks::Communicator& world) {
  if (options.network) return open_network("hessian_multiply", options, std::move(between), world);
  auto hessian = world.together([&] { return file::read_layout(options.file); });
  file::expect_one_file(options.file, hessian, world);
  return {options.file, std::move(hessian), 0, nullptr, nullptr, options.overwrite};
}

// On root.
void print_summary(const MultiplyOptions& options, const file::StoredLayout& hessian, const after::Vectors& vectors,
                   const Products& products, double seconds, int ranks) {
  std::cout << options.output.string() << ": H times " << cli::plural(vectors.count, "vector") << '\n';
  const auto on_ranks = text("in ", text_of_seconds(seconds), " on ", cli::plural(ranks, "rank"));
  if (products.figures) {
    const auto speed = static_cast<double>(hessian.matrix.bytes()) / seconds;
    cli::print_line(std::cout, "matrix", text(options.file.string(), ", ", cli::text_of_size(hessian.matrix)));
    cli::print_line(std::cout, "read", text(on_ranks, ", ", text_of_bytes(static_cast<std::uint64_t>(speed)), "/s"));
    cli::print_line(std::cout, "trace", cli::text_of_number(products.figures->trace, 10));
    cli::print_line(std::cout, "Frobenius norm", cli::text_of_number(products.figures->frobenius_norm, 10));
  } else {
    cli::print_line(std::cout, "multiplied", on_ranks);
  }
  print_products(std::cout, vectors, products.numbers, hessian.matrix.columns);
}

// Bytes of a rank for `arrays` of vectors, and of them and their products its own elements.
std::uint64_t bytes_of(std::int64_t arrays, std::int64_t count, std::int64_t n, int ranks) {
  return static_cast<std::uint64_t>(count * (arrays * n + 2 * (n / ranks + 1))) * sizeof(double);
}

// Collective. The vectors are there on all ranks, and so are the products in the end.
after::Vectors vectors_that_fit(const MultiplyOptions& options, const file::StoredLayout& hessian,
                                const ranks::Communicator& world) {
  const char* other_ways = "fewer vectors at a time";
  const auto n = hessian.matrix.columns;
  if (options.random > 0) expect_memory(bytes_of(2, options.random, n, world.size()), other_ways, world);
  auto vectors = world.together([&] { return vectors_of(options, hessian); });
  if (options.random == 0) expect_memory(bytes_of(1, vectors.count, n, world.size()), other_ways, world);
  if (!options.vectors.empty()) after::expect_same_vectors(options.vectors, vectors.numbers, world);
  return vectors;
}

ExitCode run_on(const OpenedMatrix& opened, const MultiplyOptions& options, const ranks::Communicator& world) {
  const auto& hessian = opened.hessian;
  const auto vectors = vectors_that_fit(options, hessian, world);
  const auto n = hessian.matrix.columns;
  after::ResultFile result(options.output, opened.replace, {"hessian_mpi product", options.file, options.command_line},
                           hessian, 2 * vectors.numbers.size() * sizeof(double), world);
  Stopwatch watch;
  const auto products = opened.network ? multiply(opened, vectors, world) : multiply(options, hessian, vectors, world);
  const double seconds = world.max(watch.seconds());
  const std::vector<std::uint64_t> shape{static_cast<std::uint64_t>(vectors.count), static_cast<std::uint64_t>(n)};
  result.add("/vectors", shape, vectors.numbers);
  result.add("/products", shape, products.numbers);
  file::Attributes attributes;
  if (products.figures) {
    attributes = {{"trace", products.figures->trace}, {"frobenius_norm", products.figures->frobenius_norm}};
  }
  result.publish(attributes);
  if (world.is_root()) print_summary(options, hessian, vectors, products, seconds, world.size());
  const auto overflows = text_of_overflows(options, hessian, products);
  if (overflows.empty()) return ExitCode::complete;
  throw ranks::AgreedError(ExitCode::failed, overflows);
}

ExitCode run(const MultiplyOptions& options, const ranks::Communicator& world) {
  return run_resumably(
      "hessian_multiply", options, world,
      {[&](auto between) { return open(options, std::move(between), world); },
       [&](const OpenedMatrix& opened) { return run_on(opened, options, world); }, options.vectors, "/vectors"});
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_multiply", print_multiply_help}, argc, argv, parse, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
