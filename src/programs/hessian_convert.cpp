// The program that copies a finished file into another form: command line, conversion, summary.

#include <boost/program_options.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "hessian_mpi/after/convert.hpp"
#include "hessian_mpi/after/tool_options.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/ranks/resources.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

struct CommandLine {
  after::ConvertOptions conversion;
  std::optional<std::uint64_t> memory;
  bool help = false;
  bool version = false;
  system::UsedFiles files() const { return conversion.files(); }
};

po::options_description described_options() {
  po::options_description described;
  described.add_options()("storage", po::value<std::string>()->value_name("TYPE"),
                          "float32 or float64: the type of the numbers; as in the file where absent")(
      "symmetrise", po::bool_switch(), "(H + H^T) / 2, symmetric to the last bit")(
      "triangle", po::bool_switch(), "the upper triangle alone, packed: H[i, i:] of every row, one after the other")(
      "chunk", po::value<std::string>()->value_name("ROWSxCOLUMNS"), "in chunks; those that suit with --gzip alone")(
      "gzip", po::value<int>()->value_name("LEVEL"), "compressed by deflate, 1 (fast) to 9, in chunks")(
      "shuffle", po::bool_switch(), "with --gzip: bytes of equal weight together, which compresses better")(
      "memory", po::value<std::string>()->value_name("SIZE"),
      "what a rank may use for --symmetrise, and to unpack (512M, 2G); more is faster");
  after::describe_overwrite(described);
  after::describe_general(described);
  return described;
}

Precision parse_storage(const std::string& word) {
  for (const auto precision : {Precision::float32, Precision::float64}) {
    if (word == name_of(precision)) return precision;
  }
  throw InputError(text("--storage '", word, "': float32 or float64"));
}

std::optional<hdf5::Chunks> parse_chunks(const po::variables_map& given) {
  const bool shuffle = given["shuffle"].as<bool>();
  if (shuffle && given.count("gzip") == 0) throw InputError("--shuffle goes with --gzip");
  if (given.count("chunk") == 0 && given.count("gzip") == 0) return std::nullopt;
  hdf5::Chunks chunks;
  chunks.shuffle = shuffle;
  if (given.count("gzip") != 0) {
    chunks.gzip = given["gzip"].as<int>();
    if (chunks.gzip < 1 || chunks.gzip > 9) throw InputError(text("--gzip ", chunks.gzip, ": from 1 to 9"));
  }
  if (given.count("chunk") == 0) return chunks;
  const auto word = given["chunk"].as<std::string>();
  unsigned rows = 0;
  unsigned columns = 0;
  int used = 0;
  const bool read = std::sscanf(word.c_str(), "%8ux%8u%n", &rows, &columns, &used) == 2;
  // HDF5 has no chunks of 4 GiB and more, and a block is one row of chunks.
  constexpr std::uint64_t most_numbers = 1 << 26;
  const bool good = read && used == static_cast<int>(word.size()) && rows > 0 && columns > 0;
  if (!good || std::uint64_t{rows} * columns > most_numbers) {
    throw InputError(text("--chunk '", word, "': ROWSxCOLUMNS, such as 64x1024"));
  }
  chunks.rows = rows;
  chunks.columns = columns;
  return chunks;
}

CommandLine parse(int argc, const char* const* argv) {
  const auto given = after::parse_arguments("hessian_convert", argc, argv, described_options());
  CommandLine line;
  line.help = given["help"].as<bool>();
  line.version = given["version"].as<bool>();
  if (line.help || line.version) return line;
  const auto files = after::files_of(given);
  if (files.size() != 2) throw InputError("name the file and that of the copy: see hessian_convert --help");
  auto& conversion = line.conversion;
  conversion.source = files.front();
  conversion.output = files.back();
  if (given.count("storage") != 0) conversion.storage = parse_storage(given["storage"].as<std::string>());
  conversion.symmetrise = given["symmetrise"].as<bool>();
  conversion.triangle = given["triangle"].as<bool>();
  conversion.chunks = parse_chunks(given);
  conversion.overwrite = given["overwrite"].as<bool>();
  conversion.command_line = cli::command_line_of(argc, argv);
  line.memory = after::memory_in(given);
  if (conversion.triangle && conversion.chunks) throw InputError("--triangle is packed: without --chunk and --gzip");
  return line;
}

void print_convert_help(std::ostream& out) {
  out << "hessian_convert: a copy of a finished file in another form, made out of core by all ranks\n\n"
         "  mpirun -n 4 hessian_convert hessian.h5 archive.h5 --storage float32 --symmetrise --gzip 4 --shuffle\n\n"
      << cli::text_of_options("Options", described_options())
      << "\nThe copy keeps what the file says of itself and adds `converted_from`, `conversion` and their like. All "
         "of\n"
         "it is read back before it says that it is complete. Of a packed triangle, every copy but another --triangle "
         "is\n"
         "whole again, its lower half the mirror of the upper one.\n";
}

ExitCode run(CommandLine line, const ranks::Communicator& world) {
  line.conversion.memory = ranks::resources_of_rank(std::nullopt, line.memory, world).memory;
  system::keep_freed_memory();
  const auto done = after::convert(line.conversion, world);
  if (!world.is_root()) return ExitCode::complete;
  std::cout << line.conversion.output.string() << ": complete, rows of " << done.rows << " x " << done.columns << " in "
            << text_of_bytes(done.bytes) << '\n';
  cli::print_line(std::cout, "written",
                  text("in ", text_of_seconds(done.seconds), " on ", cli::plural(world.size(), "rank")));
  cli::print_line(std::cout, "read back", text("all row blocks, in ", text_of_seconds(done.seconds_to_check)));
  if (!std::isnan(done.symmetry_error))
    cli::print_line(std::cout, "symmetry error", cli::text_of_number(done.symmetry_error, 2));
  return ExitCode::complete;
}

int start(int argc, char** argv) {
  return cli::run_program({"hessian_convert", print_convert_help}, argc, argv, parse, run);
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
