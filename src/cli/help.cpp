#include "hessian_mpi/cli/help.hpp"

#include <algorithm>
#include <boost/program_options/cmdline.hpp>
#include <sstream>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::cli {
namespace {

namespace po = boost::program_options;

std::string names_of(const po::option_description& option) {
  const auto first = option.canonical_display_name(po::command_line_style::allow_dash_for_short);
  const auto value = option.format_parameter();
  return text("  ", first.starts_with('-') ? first + ", " : "    ", "--", option.long_name(), value.empty() ? "" : " ",
              value);
}

}  // namespace

std::string text_of_options(const std::string& heading, const po::options_description& options) {
  constexpr std::size_t line_length = 100;
  std::size_t column = 0;
  for (const auto& option : options.options()) column = std::max(column, names_of(*option).size() + 2);
  std::string all = heading + ":\n";
  for (const auto& option : options.options()) {
    auto line = names_of(*option);
    line.resize(column, ' ');
    std::istringstream words(option->description());
    for (std::string word; words >> word;) {
      if (line.size() > column && line.size() + 1 + word.size() > line_length) {
        all += line + '\n';
        line.assign(column, ' ');
      }
      line += (line.size() > column ? " " : "") + word;
    }
    all += line + '\n';
  }
  return all;
}

}  // namespace hessian_mpi::cli
