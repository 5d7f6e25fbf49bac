#include "hessian_mpi/run/options.hpp"

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <map>
#include <ostream>
#include <regex>
#include <sstream>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/command_line.hpp"

namespace hessian_mpi::run {
namespace {

namespace po = boost::program_options;

// The value of an option that takes one of a few words.
template <class Value>
Value one_of(const std::string& option, const std::string& word, const std::map<std::string, Value>& words) {
  const auto found = words.find(word);
  if (found != words.end()) return found->second;
  std::string known;
  for (const auto& [name, value] : words) known += (known.empty() ? "" : ", ") + name;
  throw InputError(text("--", option, " '", word, "' is none of: ", known));
}

/// Adds options whose values are read as text: a wrong one is then told in the project's words, with the option's name.
class Described {
 public:
  Described() : all("Options", line_length, description_length) {}
  void option(const char* names, const char* value, const char* description) {
    all.add_options()(names, po::value<std::string>()->value_name(value), description);
  }
  void words(const char* name, const char* value, const char* description) {
    all.add_options()(name, po::value<std::vector<std::string>>()->multitoken()->value_name(value), description);
  }
  void flag(const char* names, const char* description) { all.add_options()(names, po::bool_switch(), description); }
  po::options_description all;

 private:
  static constexpr unsigned line_length = 100;
  static constexpr unsigned description_length = 60;
};

void describe_problem(Described& to) {
  to.option("model,m", "FILE",
            "network: exported program (.pt2, torch.export.save) or TorchScript module (torch.jit.save) [the embedded "
            "example]");
  to.option(
      "data,d", "FILE",
      "HDF5 file with datasets inputs and targets, or torch.save file with a dict of these keys or a tuple (inputs, "
      "targets); first dimension = sample [the embedded example]");
  to.option(
      "loss,l", "NAME|FILE",
      "cross_entropy, nll, mse, l1, smooth_l1, huber, bce, bce_with_logits, kl_div, poisson_nll; output: the model "
      "returns the loss; FILE: a scripted module called as loss(output, targets), tuples where there are several "
      "[cross_entropy]");
  to.words("loss-option", "NAME=VALUE...",
           "arguments of a named loss, by PyTorch's names, such as weight=1,2,0.5 (or weight=@FILE) "
           "ignore_index=255 label_smoothing=0.1 [PyTorch's]");
  to.option("l2", "LAMBDA",
            "adds LAMBDA / 2 times the sum of squares of all trainable parameters, as weight_decay=LAMBDA does [0]");
  to.option("reduction", "mean|sum", "over the whole data set, whatever the batch size [mean]");
  to.option("mode", "eval|train", "mode the module is put in [eval]");
  to.option("batch-size", "B", "samples per forward; the last batch may be smaller [all]");
  to.option("dtype", "float32|float64", "dtype of parameters, data and derivatives [the model's]");
  to.words("parameters", "PATTERN...",
           "shell patterns of parameter names; rows and columns of the others are left out [*]");
}

po::options_description described_options() {
  Described to;
  describe_problem(to);
  to.option("seed", "S", "seed of the embedded example and of random layers [0]");
  to.option("matrix", "hessian|ggn|fisher",
            "hessian; ggn: the generalised Gauss-Newton matrix, without second derivatives of the network; fisher: the "
            "empirical Fisher matrix, gradients of samples times themselves [hessian]");
  to.option("blocks", "all|diagonal",
            "all: the whole matrix; diagonal: the block of each parameter tensor alone, one dataset for each, for "
            "networks whose whole matrix does not fit [all]");
  to.flag("diagonal", "the diagonal of the matrix alone");
  to.option(
      "method", "auto|rows|layers",
      "rows: one double-backward per row; layers: factored by layer wherever that is exact; auto: whichever takes "
      "fewer operations, layer by layer [auto]");
  to.option("accumulate", "float32|float64", "precision of the sums over samples in factored rows [as --dtype]");
  to.option("device", "auto|cpu|cuda",
            "where to compute; cuda: on a GPU for each rank of a node, in turn; auto: cpu [auto]");
  to.option(
      "rows", "BEGIN:END|K/M",
      "only rows BEGIN to END - 1, or part K (from 0) of M parts, into a part file, for job arrays; hessian_join joins "
      "the parts [all]");
  to.option(
      "threads", "T",
      "compute threads per rank [OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, else cores of the node / ranks on the node]");
  to.option("memory", "SIZE",
            "what a rank may use for its buffers, such as 512M or 2G [a quarter of free memory / ranks on the node]");
  to.option("time-limit", "TIME",
            "stop cleanly, resumable, before this much wall time: 3600, 30:00, 1:00:00, 2-12:00:00 [none]");
  to.flag(
      "plan",
      "print what the job will take on this and other numbers of ranks, measured on some of its rows; write nothing");
  to.option("output,o", "FILE", "the file to write [hessian.h5]");
  to.option("storage", "float32|float64", "dtype on disk [as --dtype]");
  to.flag("resume", "go on with the unfinished file of the same job, or begin it where there is none");
  to.flag("overwrite", "replace an existing file; without it, one is an error and stays untouched");
  to.option("check", "R", "rows derived again another way after the run; 0 turns checks off [8]");
  to.option("verify", "sample|all|none",
            "blocks read back from the file by another rank and compared with their checksums [sample]");
  to.option("progress", "auto|bar|plain|none", "bar on a terminal, a line now and then otherwise [auto]");
  to.option("config", "FILE", "file with the same options, one 'name = value' a line; the command line wins");
  to.flag("version", "version of the program and its libraries");
  to.flag("help,h", "this text");
  return to.all;
}

const std::map<std::string, Precision> precisions{{"float32", Precision::float32}, {"float64", Precision::float64}};

std::int64_t whole_number(const std::string& option, const std::string& word, std::int64_t least) {
  std::size_t used = 0;
  std::int64_t number = 0;
  try {
    number = std::stoll(word, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != word.size() || number < least) {
    throw InputError(text("--", option, " '", word, "' is not a whole number of at least ", least));
  }
  return number;
}

double number_not_negative(const std::string& option, const std::string& word) {
  double number = -1;
  const auto* const last = word.data() + word.size();
  const auto [end, error] = std::from_chars(word.data(), last, number);
  if (error != std::errc() || end != last || !(number >= 0) || !std::isfinite(number)) {
    throw InputError(text("--", option, " '", word, "' is not a number of at least 0, such as 0.01 or 1e-4"));
  }
  return number;
}

// Where an option was given, hands its text to use(text).
template <class Use>
void if_given(const po::variables_map& given, const std::string& option, const Use& use) {
  if (given.count(option) != 0) use(given[option].as<std::string>());
}

// Several words may stand in one value, as they do on a line of a configuration file.
std::vector<std::string> split_at_spaces(const std::vector<std::string>& values) {
  std::vector<std::string> words;
  for (const auto& value : values) {
    std::istringstream in(value);
    for (std::string word; in >> word;) words.push_back(word);
  }
  return words;
}

// "100:200" or "3/16".
void set_rows(const std::string& word, Options& options) {
  std::istringstream in(word);
  std::int64_t first = -1;
  std::int64_t second = -1;
  char between = 0;
  char rest = 0;
  const bool two = static_cast<bool>(in >> first >> between >> second) && !(in >> rest);
  if (two && between == ':' && 0 <= first && first < second) {
    options.rows = Rows{first, second};
  } else if (two && between == '/' && 0 <= first && first < second) {
    options.part_of_rows = PartOfRows{first, second};
  } else {
    throw InputError(text("--rows '", word,
                          "' is neither BEGIN:END with BEGIN below END, such as 0:1000, nor K/M with K "
                          "from 0 to M - 1, such as 3/16"));
  }
}

// The model, the data and the loss.
void set_problem(const po::variables_map& given, Options& options) {
  if_given(given, "model", [&](const auto& word) { options.model = word; });
  if_given(given, "data", [&](const auto& word) { options.data = word; });
  if_given(given, "loss", [&](const auto& word) { options.loss = word; });
  if (given.count("loss-option") != 0) {
    options.loss_options = split_at_spaces(given["loss-option"].as<std::vector<std::string>>());
  }
  if_given(given, "l2", [&](const auto& word) { options.l2 = number_not_negative("l2", word); });
  if_given(given, "reduction", [&](const auto& word) {
    options.reduction = one_of<Reduction>("reduction", word, {{"mean", Reduction::mean}, {"sum", Reduction::sum}});
  });
  if_given(given, "mode", [&](const auto& word) {
    options.mode = one_of<Mode>("mode", word, {{"eval", Mode::eval}, {"train", Mode::train}});
  });
  if_given(given, "batch-size", [&](const auto& word) { options.batch_size = whole_number("batch-size", word, 1); });
  if_given(given, "dtype", [&](const auto& word) { options.dtype = one_of("dtype", word, precisions); });
  if (given.count("parameters") != 0) {
    options.parameters = split_at_spaces(given["parameters"].as<std::vector<std::string>>());
  }
  if_given(given, "seed",
           [&](const auto& word) { options.seed = static_cast<std::uint64_t>(whole_number("seed", word, 0)); });
}

Options options_from(const po::variables_map& given) {
  Options options;
  set_problem(given, options);
  if_given(given, "matrix", [&](const auto& word) {
    options.matrix = one_of<Matrix>("matrix", word,
                                    {{"hessian", Matrix::hessian}, {"ggn", Matrix::ggn}, {"fisher", Matrix::fisher}});
  });
  if_given(given, "blocks", [&](const auto& word) {
    options.entries = one_of<Entries>("blocks", word, {{"all", Entries::all}, {"diagonal", Entries::diagonal_blocks}});
  });
  if (given["diagonal"].as<bool>()) {
    if (given.count("blocks") != 0) throw InputError("--diagonal is less than --blocks: give one of them");
    options.entries = Entries::diagonal;
  }
  if_given(given, "method", [&](const auto& word) {
    options.method = one_of<Method>("method", word,
                                    {{"auto", Method::automatic}, {"rows", Method::rows}, {"layers", Method::layers}});
  });
  if_given(given, "device", [&](const auto& word) {
    options.device = one_of<DeviceChoice>(
        "device", word, {{"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}});
  });
  if_given(given, "accumulate", [&](const auto& word) { options.accumulate = one_of("accumulate", word, precisions); });
  if_given(given, "rows", [&](const auto& word) { set_rows(word, options); });
  if_given(given, "time-limit", [&](const auto& word) { options.time_limit = parse_time(word); });
  if_given(given, "threads", [&](const auto& word) {
    constexpr std::int64_t most_threads = 4096;
    options.threads = static_cast<int>(std::min(whole_number("threads", word, 1), most_threads));
  });
  if_given(given, "memory", [&](const auto& word) {
    try {
      options.memory = parse_bytes(word);
    } catch (const InputError& error) {
      throw InputError(text("--memory ", error.what()));
    }
  });
  if_given(given, "config", [&](const auto& word) { options.config = word; });
  if_given(given, "output", [&](const auto& word) { options.output = word; });
  if_given(given, "storage", [&](const auto& word) { options.storage = one_of("storage", word, precisions); });
  if_given(given, "check", [&](const auto& word) {
    constexpr std::int64_t most_rows = 1 << 20;
    options.check_rows = static_cast<int>(std::min(whole_number("check", word, 0), most_rows));
  });
  if_given(given, "verify", [&](const auto& word) {
    options.verify =
        one_of<Verify>("verify", word, {{"sample", Verify::sample}, {"all", Verify::all}, {"none", Verify::none}});
  });
  if_given(given, "progress", [&](const auto& word) {
    options.progress = one_of<ProgressStyle>("progress", word,
                                             {{"auto", ProgressStyle::automatic},
                                              {"bar", ProgressStyle::bar},
                                              {"plain", ProgressStyle::plain},
                                              {"none", ProgressStyle::none}});
  });
  options.plan = given["plan"].as<bool>();
  options.resume = given["resume"].as<bool>();
  options.overwrite = given["overwrite"].as<bool>();
  return options;
}

void check_consistency(const Options& options) {
  if (options.model.has_value() != options.data.has_value()) {
    throw InputError(options.model ? "--model needs --data: the data set at which to take the Hessian"
                                   : "--data needs --model: the network to differentiate");
  }
  if (options.resume && options.overwrite) {
    throw InputError("--resume goes on with the file, --overwrite throws it away: give one of them");
  }
  if (options.entries != Entries::all && (options.rows || options.part_of_rows)) {
    throw InputError("--rows is a part of the whole matrix: leave out --blocks diagonal and --diagonal, or --rows");
  }
  if (options.matrix == Matrix::fisher && options.l2 > 0) {
    throw InputError("--matrix fisher is made of gradients of samples, of which --l2 is none: leave out one of them");
  }
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

// Of each of these the command line may have one, and the configuration file the other, which then loses.
constexpr std::array contrary_options{std::array{"resume", "overwrite"}, std::array{"blocks", "diagonal"}};

bool loses_to_the_command_line(const std::string& option, const po::variables_map& of_command_line) {
  const auto is_given = [&](const char* name) {
    return of_command_line.count(name) != 0 && !of_command_line[name].defaulted();
  };
  return std::any_of(contrary_options.begin(), contrary_options.end(), [&](const auto& pair) {
    return (option == pair[0] && is_given(pair[1])) || (option == pair[1] && is_given(pair[0]));
  });
}

void store_config_file(const std::string& name, const po::options_description& all, po::variables_map& given) {
  try {
    system::expect_regular(name);
  } catch (const InputError& error) {
    throw InputError(text("--config ", error.what()));
  }
  std::ifstream file(name);
  if (!file) throw InputError(text("--config '", name, "' cannot be read"));
  try {
    auto found = po::parse_config_file(file, all);
    std::erase_if(found.options,
                  [&](const auto& option) { return loses_to_the_command_line(option.string_key, given); });
    po::store(found, given);
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
  if (given.count("config") != 0) store_config_file(given["config"].as<std::string>(), all, given);
  Options options;
  options.help = given["help"].as<bool>();
  options.version = given["version"].as<bool>();
  if (options.help || options.version) return options;
  options = options_from(given);
  check_consistency(options);
  options.command_line = cli::command_line_of(argc, argv);
  return options;
}

}  // namespace

// A loss is the name of one or a file; options of a loss may be files: weight=@FILE.
system::UsedFiles Options::files() const {
  system::UsedFiles used{{}, plan ? std::nullopt : std::optional(output)};
  for (const auto& file : {model, data, config}) {
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
      << described_options()
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
