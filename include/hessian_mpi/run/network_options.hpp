#pragma once
/// The options that describe a network, for programs that take one in the place of a file: rows of hessian_mpi's own
/// table.

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>
#include <optional>
#include <set>
#include <string>

#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi::run {

/// Model, data, loss, which matrix of them is meant, and on which device. but_for: names of those that the program
/// describes itself.
boost::program_options::options_description network_options(const std::set<std::string>& but_for);

/// Their values, checked as those of hessian_mpi; nothing where none is given. Throws InputError naming the option at
/// fault, or one that is given without --model.
std::optional<Options> take_network_options(const boost::program_options::variables_map& given,
                                            const std::set<std::string>& but_for);

/// Names of those that are given.
std::set<std::string> given_network_options(const boost::program_options::variables_map& given);

/// For a network beside a file: all options that are not given become those that the file was made with, as its
/// attributes say; but for --device and for names of files. Throws InputError where one is needed that the file names
/// and does not hold.
void take_options_of_file(const file::Attributes& attributes, const std::set<std::string>& given, Options& options);

}  // namespace hessian_mpi::run
