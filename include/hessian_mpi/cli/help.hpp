#pragma once
/// The list of options in --help of every program.

#include <boost/program_options/options_description.hpp>
#include <string>

namespace hessian_mpi::cli {

/// "  -o, --output FILE   the file to write" under a heading: as GNU programs write it, and help2man reads it.
std::string text_of_options(const std::string& heading, const boost::program_options::options_description& options);

}  // namespace hessian_mpi::cli
