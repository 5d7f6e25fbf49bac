#include "hessian_mpi/cli/tool_options.hpp"

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::cli {

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

std::filesystem::path file_of(const std::string& program, const po::variables_map& given) {
  const auto files = files_of(given);
  if (files.size() != 1) throw InputError(text("name one file of hessian_mpi: see ", program, " --help"));
  return files.front();
}

}  // namespace hessian_mpi::cli
