#pragma once
/// The options of hessian_mpi, a row for each. Made from it: what the command line and --config take, --help, and the
/// attributes by which a file tells jobs apart. Tests hold the tables of options.md and of the README to it.

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "hessian_mpi/run/options.hpp"

namespace hessian_mpi::run {

/// An attribute of the file that an option decides; value takes options that leave nothing open.
struct OptionAttribute {
  std::string name;
  std::function<std::variant<std::string, std::int64_t, double>(const Options& options)> value;
};

struct Option {
  std::string names;  ///< as --help has it: "-m, --model FILE", "--parameters PATTERN...", "--resume"
  const char* meaning;
  std::string usual;  ///< the default, in words; may be empty
  /// Takes the words that were given: one, or more where the value ends with "...", or none where there is no value.
  std::function<void(const Option& option, const std::vector<std::string>& words, Options& to)> read;
  std::vector<OptionAttribute> attributes = {};

  std::string name() const;        ///< "model"
  std::string short_name() const;  ///< "m", or empty
  std::string value() const;       ///< "FILE", or empty
};

/// In the order of --help.
const std::vector<Option>& option_table();

/// Those of them that describe a network, which matrix of it is meant, and on which device.
std::vector<Option> table_of_network();

}  // namespace hessian_mpi::run
