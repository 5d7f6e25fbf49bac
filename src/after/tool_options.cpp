#include "hessian_mpi/after/tool_options.hpp"

#include "hessian_mpi/after/result_file.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/file/hessian_file.hpp"

namespace hessian_mpi::after {

namespace po = boost::program_options;

po::variables_map parse_arguments(const std::string& program, int argc, const char* const* argv,
                                  const po::options_description& described, const char* files) {
  po::options_description all = described;
  all.add_options()(files, po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add(files, -1);
  const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  po::variables_map given;
  try {
    po::store(po::command_line_parser(argc, argv).options(all).positional(positional).style(style).run(), given);
  } catch (const po::error& error) {
    throw InputError(text(error.what(), ": see ", program, " --help"));
  }
  return given;
}

std::vector<std::string> files_of(const po::variables_map& given, const char* files) {
  return given.count(files) == 0 ? std::vector<std::string>() : given[files].as<std::vector<std::string>>();
}

void describe_general(po::options_description& to) {
  to.add_options()("version", po::bool_switch(), "versions of the program and its libraries")(
      "help,h", po::bool_switch(), "this text");
}

void describe_overwrite(po::options_description& to) {
  to.add_options()("overwrite", po::bool_switch(),
                   "replace an existing file; without it, one is an error and stays untouched");
}

void describe_result(po::options_description& to, const char* kind) {
  const auto output = text("the file to write; ", name_of_result("hessian.h5", kind).string(), " for hessian.h5, ",
                           name_of_result("net.pt2", kind).string(), " for a network net.pt2, beside it");
  to.add_options()("output,o", po::value<std::string>()->value_name("FILE"), output.c_str());
  describe_overwrite(to);
  describe_general(to);
}

void describe_machine(po::options_description& to, const std::string& memory) {
  const auto words = memory + " (512M, 2G); a quarter of free memory / ranks on the node where absent";
  to.add_options()("memory", po::value<std::string>()->value_name("SIZE"), words.c_str())(
      "threads", po::value<int>()->value_name("T"),
      "of a rank; OMP_NUM_THREADS or its share of the cores where absent");
}

void describe_resources(po::options_description& to, const char* rows_of) {
  describe_machine(to,
                   text("of ", rows_of,
                        ": what a rank's rows may take, larger ones are read again for every product; of a network: "
                        "what a rank may keep of its batches between products"));
  to.add_options()("plan", po::bool_switch(), "say what it will take, and do nothing");
}

system::UsedFiles ResultOptions::files() const {
  return {file::files_of_matrix(file), plan ? std::nullopt : std::optional(output)};
}

std::optional<std::uint64_t> memory_in(const po::variables_map& given) {
  if (given.count("memory") == 0) return std::nullopt;
  try {
    return parse_bytes(given["memory"].as<std::string>());
  } catch (const InputError& error) {
    throw InputError(text("--memory ", error.what()));
  }
}

void take_result_options(const std::string& program, const char* kind, int argc, const char* const* argv,
                         const po::variables_map& given, ResultOptions& options) {
  options.help = given["help"].as<bool>();
  options.version = given["version"].as<bool>();
  if (options.help || options.version) return;
  if (options.file.empty()) options.file = file_of(program, given);
  options.output = given.count("output") != 0 ? std::filesystem::path(given["output"].as<std::string>())
                                              : name_of_result(options.file, kind);
  options.overwrite = given["overwrite"].as<bool>();
  options.memory = memory_in(given);
  if (given.count("threads") != 0) options.threads = given["threads"].as<int>();
  if (options.threads && *options.threads < 1)
    throw InputError(text("--threads ", *options.threads, ": 1 is the least"));
  options.plan = given.count("plan") != 0 && given["plan"].as<bool>();
  options.command_line = cli::command_line_of(argc, argv);
}

std::filesystem::path file_of(const std::string& program, const po::variables_map& given) {
  const auto files = files_of(given);
  if (files.size() != 1) throw InputError(text("name one file of hessian_mpi: see ", program, " --help"));
  return files.front();
}

}  // namespace hessian_mpi::after
