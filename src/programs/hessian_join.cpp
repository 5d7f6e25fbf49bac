// The program that joins part files: command line, join, summary.

#include <boost/program_options.hpp>
#include <iostream>

#include "hessian_mpi/after/join.hpp"
#include "hessian_mpi/after/tool_options.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/end_process.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/cli/parallel_program.hpp"
#include "hessian_mpi/system/file_size_limit.hpp"

namespace hessian_mpi::programs {
namespace {

namespace po = boost::program_options;

po::options_description described_options() {
  po::options_description described;
  described.add_options()("output,o", po::value<std::string>()->default_value("hessian.h5")->value_name("FILE"),
                          "the file to write")(
      "copy", po::bool_switch(),
      "copy the rows; without it, the file refers to the parts, which must stay where they are");
  after::describe_overwrite(described);
  after::describe_general(described);
  return described;
}

void print_join_help(std::ostream& out) {
  out << "hessian_join: joins the part files of hessian_mpi --rows into one file\n\n"
         "  hessian_join hessian.part-*.h5 --output hessian.h5\n\n"
      << cli::text_of_options("Options", described_options());
}

int run(int argc, const char* const* argv) {
  const auto given = after::parse_arguments("hessian_join", argc, argv, described_options(), "part");
  const bool help = given["help"].as<bool>();
  const bool version = given["version"].as<bool>();
  if (help) print_join_help(std::cout);
  if (version && !help) cli::print_versions(std::cout, {"hessian_join", print_join_help});
  if (help || version) return static_cast<int>(ExitCode::complete);
  after::JoinOptions options;
  for (const auto& part : after::files_of(given, "part")) options.parts.emplace_back(part);
  if (options.parts.empty()) throw InputError("name the part files: see hessian_join --help");
  options.output = given["output"].as<std::string>();
  options.copy = given["copy"].as<bool>();
  options.overwrite = given["overwrite"].as<bool>();
  options.command_line = cli::command_line_of(argc, argv);
  system::expect_inputs(options.files());
  system::expect_output(options.files());
  const auto lock = cli::lock_output("hessian_join", options.files());
  const auto joined = after::join_parts(options);
  for (const auto& warning : joined.warnings) std::cerr << "hessian_join: warning: " << warning << '\n';
  std::cout << options.output.string() << ": complete, " << joined.rows << " x " << joined.columns << ", "
            << text_of_bytes(joined.bytes) << (options.copy ? " copied from " : " in ") << options.parts.size()
            << " parts";
  if (joined.symmetry_error) std::cout << ", symmetry error " << *joined.symmetry_error;
  std::cout << '\n';
  return static_cast<int>(ExitCode::complete);
}

int start(int argc, char** argv) {
  system::ignore_file_size_signal();
  try {
    const int code = run(argc, argv);
    cli::expect_printed();
    return code;
  } catch (const Error& error) {
    std::cerr << "hessian_join: error: " << error.what() << std::endl;
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "hessian_join: error: " << error.what() << std::endl;
    return static_cast<int>(ExitCode::failed);
  }
}

}  // namespace
}  // namespace hessian_mpi::programs

int main(int argc, char** argv) {
  return hessian_mpi::cli::end_process(hessian_mpi::programs::start(argc, argv));
}
