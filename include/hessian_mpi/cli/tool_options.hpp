#pragma once
/// The command line of a program for finished files: options, and files as all other arguments.

#include <boost/program_options.hpp>
#include <filesystem>
#include <string>
#include <vector>

namespace hessian_mpi::cli {

/// Reads the arguments. files: under which name those that belong to no option are found. No abbreviations of options.
/// Throws InputError that points to the program's --help.
boost::program_options::variables_map parse_arguments(const std::string& program, int argc, const char* const* argv,
                                                      const boost::program_options::options_description& described,
                                                      const char* files = "file");

/// The arguments that belong to no option, in order.
std::vector<std::string> files_of(const boost::program_options::variables_map& given, const char* files = "file");

/// The one file that a program reads. Throws InputError where there is none, or another.
std::filesystem::path file_of(const std::string& program, const boost::program_options::variables_map& given);

}  // namespace hessian_mpi::cli
