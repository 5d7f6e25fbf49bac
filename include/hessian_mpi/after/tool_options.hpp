#pragma once
/// The command line of a program for finished files: options, and files as all other arguments.

#include <boost/program_options.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::after {

/// Reads the arguments. files: under which name those that belong to no option are found. No abbreviations of options.
/// Throws InputError that points to the program's --help.
boost::program_options::variables_map parse_arguments(const std::string& program, int argc, const char* const* argv,
                                                      const boost::program_options::options_description& described,
                                                      const char* files = "file");

/// The arguments that belong to no option, in order.
std::vector<std::string> files_of(const boost::program_options::variables_map& given, const char* files = "file");

/// Describes --version and --help, which all programs have.
void describe_general(boost::program_options::options_description& to);
/// Describes --overwrite, which all programs have that write a file.
void describe_overwrite(boost::program_options::options_description& to);

/// What the programs are given that make a result of a whole matrix; each takes what it describes.
struct ResultOptions {
  std::filesystem::path file;  ///< set before where it is no argument of its own
  std::filesystem::path output;
  bool overwrite = false;
  std::optional<int> threads;
  std::optional<std::uint64_t> memory;  ///< bytes that a rank's rows may take where they are multiplied
  bool plan = false;
  bool help = false;
  bool version = false;
  std::string command_line;

  /// The matrix's, and the result's where it is to be made.
  system::UsedFiles files() const;
};

/// Describes --output, whose default is named after the kind of result (name_of_result() of result_file.hpp),
/// --overwrite,
/// --version and --help.
void describe_result(boost::program_options::options_description& to, const char* kind);
/// Describes --memory and --threads. memory: what the first is.
void describe_machine(boost::program_options::options_description& to, const std::string& memory);
/// These, and --plan. rows_of: what --memory is of.
void describe_resources(boost::program_options::options_description& to, const char* rows_of);
/// Takes the values of all these; nothing but help and version where one of them is given.
void take_result_options(const std::string& program, const char* kind, int argc, const char* const* argv,
                         const boost::program_options::variables_map& given, ResultOptions& options);

/// --memory, where it is given and described.
std::optional<std::uint64_t> memory_in(const boost::program_options::variables_map& given);

/// The one file that a program reads. Throws InputError where there is none, or another.
std::filesystem::path file_of(const std::string& program, const boost::program_options::variables_map& given);

}  // namespace hessian_mpi::after
