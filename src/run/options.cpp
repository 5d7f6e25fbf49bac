#include "hessian_mpi/run/options.hpp"

#include <array>
#include <boost/any.hpp>
#include <boost/program_options.hpp>
#include <fstream>
#include <ostream>
#include <regex>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/help.hpp"
#include "hessian_mpi/file/same_job.hpp"
#include "hessian_mpi/run/network_options.hpp"
#include "option_table.hpp"

namespace hessian_mpi::run {
namespace {

namespace po = boost::program_options;

po::options_description described(const std::vector<Option>& table) {
  po::options_description all;
  for (const auto& option : table) {
    auto names = option.name();
    if (!option.short_name().empty()) names.append(",").append(option.short_name());
    // Values are read as text: a wrong one is then told in the project's words, with the option's name.
    const auto value = option.value();
    const auto meaning = option.meaning + (option.usual.empty() ? "" : " [" + option.usual + "]");
    if (value.empty()) {
      all.add_options()(names.c_str(), po::bool_switch(), meaning.c_str());
    } else if (value.ends_with("...")) {
      const auto words = po::value<std::vector<std::string>>()->multitoken()->value_name(value);
      all.add_options()(names.c_str(), words, meaning.c_str());
    } else {
      all.add_options()(names.c_str(), po::value<std::string>()->value_name(value), meaning.c_str());
    }
  }
  return all;
}

po::options_description described_options() {
  return described(option_table());
}

// The words that an option was given: none for one without a value, nothing where it was not given.
std::optional<std::vector<std::string>> words_of(const po::variables_map& given, const std::string& option) {
  const auto& value = given[option].value();
  if (const auto* word = boost::any_cast<std::string>(&value)) return std::vector<std::string>{*word};
  if (const auto* words = boost::any_cast<std::vector<std::string>>(&value)) return *words;
  const auto* set = boost::any_cast<bool>(&value);
  return set != nullptr && *set ? std::optional<std::vector<std::string>>(std::in_place) : std::nullopt;
}

struct Alternatives {
  const char* first;
  const char* second;
  const char* message;
};

constexpr std::array alternatives{
    Alternatives{"resume", "overwrite", "--resume goes on with the file, --overwrite throws it away: give one of them"},
    Alternatives{"diagonal", "blocks", "--diagonal is less than --blocks: give one of them"}};

Options options_from(const po::variables_map& given) {
  for (const auto& [first, second, message] : alternatives) {
    if (words_of(given, first) && words_of(given, second)) throw InputError(message);
  }
  Options options;
  for (const auto& option : option_table()) {
    if (const auto words = words_of(given, option.name())) option.read(option, *words, options);
  }
  return options;
}

// Derivatives by inputs hold parameters fixed.
void check_inputs(const Options& options) {
  if (options.method == Method::layers) {
    throw InputError(
        "--method layers factors rows of parameters; those of --with-respect-to inputs are made by double-backward: "
        "leave it out");
  }
  if (options.parameters != Options().parameters) {
    throw InputError(
        "--parameters chooses among parameters, which --with-respect-to inputs holds fixed: leave it out; inputs are "
        "chosen by name, --with-respect-to inputs:NAME");
  }
  if (options.l2 > 0) {
    throw InputError(
        "--l2 is a term of the parameters, which --with-respect-to inputs holds fixed: leave out one of them");
  }
}

void check_consistency(const Options& options) {
  if (options.model.has_value() != options.data.has_value()) {
    throw InputError(options.model ? "--model needs --data: the data set at which to take the Hessian"
                                   : "--data needs --model: the network to differentiate");
  }
  if (options.values && !options.model) {
    throw InputError("--values needs --model and --data: the network whose parameters it has, and the data set");
  }
  if (options.entries != Entries::all && (options.rows || options.part_of_rows)) {
    throw InputError("--rows is a part of the whole matrix: leave out --blocks diagonal and --diagonal, or --rows");
  }
  if ((options.matrix == Matrix::fisher || has_rows_of_samples(options.matrix)) && options.l2 > 0) {
    throw InputError(text("--matrix ", name_of(options.matrix),
                          " is made of derivatives of samples, of which --l2 is none: leave out one of them"));
  }
  if (has_rows_of_samples(options.matrix) && (options.entries != Entries::all || options.method == Method::layers)) {
    throw InputError(text("--matrix ", name_of(options.matrix),
                          " has rows of samples: --blocks diagonal, --diagonal "
                          "and --method layers are for rows of parameters"));
  }
  if (options.inputs) check_inputs(options);
  if (options.verbose) throw InputError("--verbose is of --version: leave it out, or add --version");
  if (options.output.empty()) throw InputError("--output is empty: name the file to write");
  if (options.output.filename().empty()) {
    throw InputError(text("--output '", options.output.string(), "' is a folder: name a file"));
  }
}

po::parsed_options parse_command_line(int argc, const char* const* argv, const po::options_description& all) {
  // No guessing of abbreviated names: a script that says --para today must not mean something else tomorrow.
  const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  const po::positional_options_description none;
  return po::command_line_parser(argc, argv).options(all).style(style).positional(none).run();
}

// What the command line has wins, over its alternative in the file too: so --resume goes on with what overwrites.
// Returns the options that the file adds, as words of a command line.
std::vector<std::string> store_config_file(const std::string& name, const po::options_description& all,
                                           po::variables_map& given) {
  try {
    system::expect_regular(name);
  } catch (const InputError& error) {
    throw InputError(text("--config ", error.what()));
  }
  std::ifstream file(name);
  if (!file) throw InputError(text("--config '", name, "' cannot be read"));
  try {
    auto parsed = po::parse_config_file(file, all);
    for (const auto& [first, second, message] : alternatives) {
      const std::string beaten = words_of(given, first) ? second : words_of(given, second) ? first : "";
      std::erase_if(parsed.options, [&](const auto& option) { return option.string_key == beaten; });
    }
    std::erase_if(parsed.options, [&](const auto& option) { return words_of(given, option.string_key).has_value(); });
    po::store(parsed, given);
    std::vector<std::string> added;
    for (const auto& option : parsed.options) {
      const auto words = words_of(given, option.string_key);
      if (!words) continue;  // a flag that is false
      added.push_back("--" + option.string_key);
      added.insert(added.end(), words->begin(), words->end());
    }
    return added;
  } catch (const po::error& error) {
    throw InputError(text("--config '", name, "': ", error.what()));
  }
}

Options parsed(int argc, const char* const* argv) {
  const auto all = described_options();
  po::variables_map given;
  try {
    po::store(parse_command_line(argc, argv, all), given);
  } catch (const po::too_many_positional_options_error&) {
    throw InputError("every argument belongs to an option: see hessian_mpi --help");
  } catch (const po::error& error) {
    throw InputError(text(error.what(), ": see hessian_mpi --help"));
  }
  std::vector<std::string> of_config;
  if (given.count("config") != 0) of_config = store_config_file(given["config"].as<std::string>(), all, given);
  Options options;
  options.help = words_of(given, "help").has_value();
  options.version = words_of(given, "version").has_value();
  if (options.help || options.version) {
    options.verbose = words_of(given, "verbose").has_value();
    if (const auto output = words_of(given, "output")) options.output = output->front();
    return options;
  }
  options = options_from(given);
  check_consistency(options);
  options.command_line = cli::command_line_of(argc, argv);
  if (std::erase(of_config, "--plan") > 0) {
    std::vector<const char*> words;
    words.reserve(of_config.size());
    for (const auto& word : of_config) words.push_back(word.c_str());
    options.options_beside_plan = cli::command_line_of(static_cast<int>(words.size()), words.data());
  }
  return options;
}

std::vector<Option> network_table(const std::set<std::string>& but_for) {
  auto table = table_of_network();
  std::erase_if(table, [&](const Option& option) { return but_for.contains(option.name()); });
  return table;
}

}  // namespace

po::options_description network_options(const std::set<std::string>& but_for) {
  return described(network_table(but_for));
}

std::optional<Options> take_network_options(const po::variables_map& given, const std::set<std::string>& but_for) {
  Options options;
  std::string first;
  for (const auto& option : network_table(but_for)) {
    const auto words = words_of(given, option.name());
    if (!words) continue;
    if (first.empty()) first = option.name();
    option.read(option, *words, options);
  }
  if (first.empty()) return std::nullopt;
  if (!options.model && !options.data) {
    throw InputError(text("--", first, " is of a network: name it by --model and --data, in the place of a file"));
  }
  check_consistency(options);
  return options;
}

std::set<std::string> given_network_options(const po::variables_map& given) {
  std::set<std::string> names;
  for (const auto& option : table_of_network()) {
    if (words_of(given, option.name())) names.insert(option.name());
  }
  return names;
}

void take_options_of_file(const file::Attributes& attributes, const std::set<std::string>& given, Options& options) {
  for (const auto& option : table_of_network()) {
    const auto name = option.name();
    if (given.contains(name) || name == "device" || name == "values") continue;
    const auto text_of = [&](const OptionAttribute& attribute) {
      const auto found = std::find_if(attributes.begin(), attributes.end(),
                                      [&](const auto& stored) { return stored.first == attribute.name; });
      return found == attributes.end() ? std::string() : file::text_of(found->second);
    };
    const auto word = text_of(option.attributes.front());
    const bool is_file = option.attributes.size() > 1 && !text_of(option.attributes.back()).empty();
    const bool is_shortened = name == "loss-option" && word.find('(') != std::string::npos;  // many numbers
    if (is_file || is_shortened) {
      throw InputError(text("the file was made with --", name, ' ', word,
                            ", of which it has a checksum alone: give the network that option too"));
    }
    const bool is_flag = option.value().empty();
    if (word.empty() || (is_flag && word == "0")) continue;
    option.read(option, is_flag ? std::vector<std::string>() : std::vector<std::string>{word}, options);
  }
  check_consistency(options);
}

// A loss is the name of one or a file; options of a loss may be files: weight=@FILE.
system::UsedFiles Options::files() const {
  system::UsedFiles used{{}, plan ? std::nullopt : std::optional(output)};
  for (const auto& file : {config, model, values, data}) {
    if (file) used.inputs.push_back(*file);
  }
  std::error_code ignored;
  if (std::filesystem::is_regular_file(loss, ignored)) used.inputs.emplace_back(loss);
  for (const auto& option : loss_options) {
    const auto at = option.find("=@");
    if (at != std::string::npos) used.inputs.emplace_back(option.substr(at + 2));
  }
  return used;
}

// Messages quote what was given, which may be a file of any bytes.
Options parse_options(int argc, const char* const* argv) {
  try {
    return parsed(argc, argv);
  } catch (const InputError& error) {
    constexpr std::size_t longest = 2000;
    throw InputError(printable(error.what(), longest));
  }
}

void print_help(std::ostream& out) {
  out << "hessian_mpi: the exact Hessian of a PyTorch network's loss over all its parameters, by all ranks of an MPI "
         "job,\n"
         "into one N x N HDF5 dataset. Without --model and --data it runs the embedded example (N = 23365, 2.18 "
         "GB).\n\n"
         "  mpirun -n 64 hessian_mpi --model net.pt2 --data batch.h5 --loss cross_entropy --output hessian.h5\n\n"
      << cli::text_of_options("Options", described_options())
      << "\nExit codes: 0 complete; 1 failed; 2 bad usage or bad input (nothing was written); 75 stopped early, go on "
         "with --resume.\n";
}

std::optional<double> parse_time(const std::string& word) {
  for (const auto* endless : {"UNLIMITED", "INFINITE", "NOT_SET"}) {
    if (word == endless) return std::nullopt;
  }
  static const std::regex form(R"((?:(\d{1,9})-)?(?:(\d{1,9}):)?(?:(\d{1,9}):)?(\d{1,9}))");
  std::smatch found;
  if (!std::regex_match(word, found, form)) {
    throw InputError(
        text("--time-limit '", word, "' is not a time: write seconds (3600), 30:00, 1:00:00 or 2-12:00:00"));
  }
  std::vector<double> numbers;
  for (std::size_t k = 2; k < found.size(); ++k) {
    if (found[k].matched) numbers.push_back(std::stod(found[k]));
  }
  // After days come hours, whatever follows; without them the last number is seconds.
  constexpr double base = 60;
  if (found[1].matched) numbers.resize(3, 0);
  double seconds = 0;
  for (const double number : numbers) seconds = base * seconds + number;
  constexpr double seconds_of_a_day = 86400;
  return seconds + (found[1].matched ? std::stod(found[1]) * seconds_of_a_day : 0);
}

}  // namespace hessian_mpi::run
