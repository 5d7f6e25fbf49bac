#include "option_table.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <type_traits>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"

namespace hessian_mpi::run {
namespace {

using Words = std::vector<std::string>;
using Read = decltype(Option::read);

// --- how options are read

template <class Member>
Read word(Member Options::*member) {
  return [=](const Option&, const Words& words, Options& to) { to.*member = words.front(); };
}

Read set_flag(bool Options::*member) {
  return [=](const Option&, const Words&, Options& to) { to.*member = true; };
}

// Several words may stand in one value, as they do on a line of a configuration file.
Read words_between_spaces(Words Options::*member) {
  return [=](const Option&, const Words& values, Options& to) {
    std::istringstream in(joined(values, " "));
    (to.*member).clear();
    for (std::string word; in >> word;) (to.*member).push_back(word);
  };
}

template <class Value>
using Choices = std::map<std::string, Value>;
const Choices<Precision> precisions{{"float32", Precision::float32}, {"float64", Precision::float64}};

template <class Value, class Member>
Read one_of(Member Options::*member, const Choices<Value>& choices) {
  return [=](const Option& option, const Words& words, Options& to) {
    const auto found = choices.find(words.front());
    if (found != choices.end()) {
      to.*member = found->second;
      return;
    }
    Words known;
    for (const auto& [name, value] : choices) known.push_back(name);
    throw InputError(text("--", option.name(), " '", words.front(), "' is none of: ", joined(known, ", ")));
  };
}

// Numbers above the most count as the most.
template <class Number, class Member>
Read whole_number(Member Options::*member, std::int64_t least,
                  std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
  return [=](const Option& option, const Words& words, Options& to) {
    const auto& word = words.front();
    std::size_t used = 0;
    std::int64_t number = 0;
    try {
      number = std::stoll(word, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used == 0 || used != word.size() || number < least) {
      throw InputError(text("--", option.name(), " '", word, "' is not a whole number of at least ", least));
    }
    to.*member = static_cast<Number>(std::min(number, most));
  };
}

void read_l2(const Option& option, const Words& words, Options& to) {
  const auto& word = words.front();
  const auto* const last = word.data() + word.size();
  const auto [end, error] = std::from_chars(word.data(), last, to.l2);
  if (error != std::errc() || end != last || !(to.l2 >= 0) || !std::isfinite(to.l2)) {
    throw InputError(text("--", option.name(), " '", word, "' is not a number of at least 0, such as 0.01 or 1e-4"));
  }
}

// "parameters", "inputs" or "inputs:NAME,NAME".
void read_with_respect_to(const Option& option, const Words& words, Options& to) {
  const auto& word = words.front();
  const auto colon = word.find(':');
  to.inputs.reset();
  if (word == "parameters") return;
  to.inputs.emplace();
  std::istringstream names(colon == std::string::npos ? "" : word.substr(colon + 1));
  for (std::string name; std::getline(names, name, ',');) {
    if (!name.empty()) to.inputs->push_back(name);
  }
  if (word.substr(0, colon) != "inputs" || (colon != std::string::npos && to.inputs->empty())) {
    throw InputError(text("--", option.name(), " '", word,
                          "' is none of: parameters, inputs (all that are floating-point), inputs:NAME, "
                          "inputs:NAME,NAME"));
  }
}

void read_time_limit(const Option&, const Words& words, Options& to) {
  to.time_limit = parse_time(words.front());
}

void read_diagonal(const Option&, const Words&, Options& to) {
  to.entries = Entries::diagonal;
}

// "100:200" or "3/16".
void read_rows(const Option& option, const Words& words, Options& to) {
  std::istringstream in(words.front());
  std::int64_t first = -1;
  std::int64_t second = -1;
  char between = 0;
  char rest = 0;
  const bool two = static_cast<bool>(in >> first >> between >> second) && !(in >> rest);
  if (two && between == ':' && 0 <= first && first < second) {
    to.rows = Rows{first, second};
  } else if (two && between == '/' && 0 <= first && first < second) {
    to.part_of_rows = PartOfRows{first, second};
  } else {
    throw InputError(text("--", option.name(), " '", words.front(),
                          "' is neither BEGIN:END with BEGIN below END, such as 0:1000, nor K/M with K "
                          "from 0 to M - 1, such as 3/16"));
  }
}

void read_memory(const Option& option, const Words& words, Options& to) {
  try {
    to.memory = parse_bytes(words.front());
  } catch (const InputError& error) {
    throw InputError(text("--", option.name(), ' ', error.what()));
  }
}

// --- what the file says of them

using Value = std::variant<std::string, std::int64_t, double>;

Value value_of(const std::string& word) {
  return word;
}
Value value_of(const Words& words) {
  return joined(words, " ");
}
Value value_of(double number) {
  return number;
}
Value value_of(DeviceChoice device) {
  return device == DeviceChoice::cuda ? "cuda" : "cpu";
}
Value value_of(const std::optional<std::filesystem::path>& file) {
  return file ? file->string() : "embedded example";
}
template <class Whole>
requires std::is_integral_v<Whole> Value value_of(Whole number) {
  return static_cast<std::int64_t>(number);
}
template <class Choice>
requires std::is_enum_v<Choice> Value value_of(Choice choice) {
  return name_of(choice);
}
template <class Decided>
Value value_of(const std::optional<Decided>& decided) {
  return value_of(decided.value());
}

Value with_respect_to(const Options& options) {
  if (!options.inputs) return "parameters";
  return options.inputs->empty() ? "inputs" : "inputs:" + joined(*options.inputs, ",");
}

using FileAttributes = std::vector<OptionAttribute>;

template <class Member>
FileAttributes attribute(const char* name, Member Options::*member) {
  return {{name, [=](const Options& options) { return value_of(options.*member); }}};
}

// And NAME_sha256: empty for what has no file, the embedded example or a loss that the program knows by name.
template <class Member>
FileAttributes attribute_with_digest(const char* name, Member Options::*member) {
  auto attributes = attribute(name, member);
  attributes.push_back({text(name, "_sha256"), [=](const Options& options) -> Value {
                          const std::optional<std::filesystem::path> file = options.*member;
                          return file && std::filesystem::is_regular_file(*file) ? sha256_of_file(*file) : "";
                        }});
  return attributes;
}

FileAttributes attributes_of_values() {
  auto attributes = attribute_with_digest("values", &Options::values);
  attributes.front().value = [](const Options& options) -> Value {
    return options.values ? options.values->string() : "";
  };
  return attributes;
}

// --- the table

std::vector<Option> options_of_problem() {
  return {
      {"-m, --model FILE", "network: exported program (.pt2, torch.export.save) or TorchScript module (torch.jit.save)",
       "embedded example", word(&Options::model), attribute_with_digest("model", &Options::model)},
      {"--values FILE",
       "parameters and buffers in place of the model's: torch.save(net.state_dict(), FILE), or safetensors",
       "the model's", word(&Options::values), attributes_of_values()},
      {"-d, --data FILE",
       "HDF5 file with datasets inputs and targets, or torch.save file with a dict of these keys or a tuple (inputs, "
       "targets); first dimension = sample",
       "embedded example", word(&Options::data), attribute_with_digest("data", &Options::data)},
      {"-l, --loss NAME|FILE",
       "cross_entropy, nll, mse, l1, smooth_l1, huber, bce, bce_with_logits, kl_div, poisson_nll, gaussian_nll, "
       "soft_margin, hinge_embedding, multi_margin, multilabel_margin, multilabel_soft_margin, margin_ranking, "
       "cosine_embedding, triplet; output: the model returns the loss; FILE: a module (TorchScript or .pt2) called as "
       "loss(output, targets), tuples where there are several",
       "cross_entropy", word(&Options::loss), attribute_with_digest("loss", &Options::loss)},
      {"--loss-option NAME=VALUE...",
       "arguments of a named loss, by PyTorch's names, such as weight=1,2,0.5 (or weight=@FILE) ignore_index=255 "
       "label_smoothing=0.1",
       "PyTorch's", words_between_spaces(&Options::loss_options), attribute("loss_options", &Options::loss_options)},
      {"--l2 LAMBDA",
       "adds LAMBDA / 2 times the sum of squares of all trainable parameters, as weight_decay=LAMBDA does", "0",
       read_l2, attribute("l2", &Options::l2)},
      {"--reduction mean|sum", "over the whole data set, whatever the batch size", "mean",
       one_of<Reduction>(&Options::reduction, {{"mean", Reduction::mean}, {"sum", Reduction::sum}}),
       attribute("reduction", &Options::reduction)},
      {"--mode eval|train", "mode the module is put in", "eval",
       one_of<Mode>(&Options::mode, {{"eval", Mode::eval}, {"train", Mode::train}}), attribute("mode", &Options::mode)},
      {"--batch-size B", "samples per forward; the last batch may be smaller", "all",
       whole_number<std::int64_t>(&Options::batch_size, 1), attribute("batch_size", &Options::batch_size)},
      {"--whole NAME...",
       "inputs, by the names of forward()'s arguments, that are not cut into samples and may have any first dimension: "
       "each batch gets all of them",
       "all, where the model returns the loss, no --batch-size is given, and first dimensions differ",
       words_between_spaces(&Options::whole), attribute("whole", &Options::whole)},
      {"--dtype float32|float64", "dtype of parameters, data and derivatives", "the model's",
       one_of(&Options::dtype, precisions), attribute("dtype", &Options::dtype)},
      {"--keep-casts", "in float64, compute what the network casts to float32 or half so, and not in float64 as well",
       "", set_flag(&Options::keep_casts), attribute("keep_casts", &Options::keep_casts)},
      {"--parameters PATTERN...", "shell patterns of parameter names; rows and columns of the others are left out", "*",
       words_between_spaces(&Options::parameters), attribute("parameters", &Options::parameters)},
      {"--with-respect-to parameters|inputs[:NAME,...]",
       "what rows and columns are elements of: parameters, or the inputs of these names (all floating-point ones), "
       "with "
       "parameters held fixed",
       "parameters",
       read_with_respect_to,
       {{"with_respect_to", with_respect_to}}},
      {"--seed S", "seed of the embedded example and of random layers", "0",
       whole_number<std::uint64_t>(&Options::seed, 0), attribute("seed", &Options::seed)},
  };
}

std::vector<Option> options_of_matrix() {
  return {
      {"--matrix hessian|ggn|fisher|jacobian|gradients",
       "hessian; ggn: the generalised Gauss-Newton matrix, without second derivatives of the network; fisher: the "
       "empirical Fisher matrix, gradients of samples times themselves; jacobian, gradients: not N x N but derivatives "
       "of each output, or of the loss, of each sample, a row each",
       "hessian",
       one_of<Matrix>(&Options::matrix, {{"hessian", Matrix::hessian},
                                         {"ggn", Matrix::ggn},
                                         {"fisher", Matrix::fisher},
                                         {"jacobian", Matrix::jacobian},
                                         {"gradients", Matrix::gradients}}),
       attribute("matrix", &Options::matrix)},
      {"--blocks all|diagonal",
       "all: the whole matrix; diagonal: the block of each parameter tensor alone, one dataset for each, for networks "
       "whose whole matrix does not fit",
       "all", one_of<Entries>(&Options::entries, {{"all", Entries::all}, {"diagonal", Entries::diagonal_blocks}}),
       attribute("entries", &Options::entries)},
      {"--diagonal", "the diagonal of the matrix alone", "", read_diagonal},  // an attribute with --blocks
      {"--method auto|rows|layers",
       "rows: one double-backward per row; layers: factored by layer wherever that is exact; auto: whichever takes "
       "fewer operations, layer by layer",
       "auto",
       one_of<Method>(&Options::method,
                      {{"auto", Method::automatic}, {"rows", Method::rows}, {"layers", Method::layers}})},
      {"--accumulate float32|float64", "precision of the sums over samples in factored rows", "as --dtype",
       one_of(&Options::accumulate, precisions), attribute("accumulate", &Options::accumulate)},
      {"--device auto|cpu|cuda", "where to compute; cuda: on a GPU for each rank of a node, in turn; auto: cpu", "auto",
       one_of<DeviceChoice>(
           &Options::device,
           {{"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}}),
       attribute("device", &Options::device)},
      {"--rows BEGIN:END|K/M",
       "only rows BEGIN to END - 1, or part K (from 0) of M parts, into a part file, for job arrays; hessian_join "
       "joins the parts",
       "all", read_rows},
  };
}

std::vector<Option> options_of_run() {
  constexpr std::int64_t most_threads = 4096;
  constexpr std::int64_t most_rows = 1 << 20;
  return {
      {"--threads T", "compute threads per rank", "OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, else cores for the rank alone",
       whole_number<int>(&Options::threads, 1, most_threads), attribute("threads", &Options::threads)},
      {"--memory SIZE", "what a rank may use for its buffers, such as 512M or 2G",
       "a quarter of free memory / ranks on the node", read_memory},
      {"--time-limit TIME", "stop cleanly, resumable, before this much wall time: 3600, 30:00, 1:00:00, 2-12:00:00",
       "none", read_time_limit},
      {"--plan",
       "print what the job will take on this and other numbers of ranks, measured on some of its rows; write nothing",
       "", set_flag(&Options::plan)},
      {"-o, --output FILE", "the file to write", "hessian.h5", word(&Options::output)},
      {"--storage float32|float64", "dtype on disk", "as --dtype", one_of(&Options::storage, precisions)},
      {"--resume", "go on with the unfinished file of the same job, or begin it where there is none", "",
       set_flag(&Options::resume)},
      {"--overwrite",
       "replace an existing file, as the first rows are on the disk; without it, one is an error and stays untouched",
       "", set_flag(&Options::overwrite)},
      {"--check R", "rows derived again another way after the run; 0 turns checks off", "8",
       whole_number<int>(&Options::check_rows, 0, most_rows)},
      {"--verify sample|all|none", "blocks read back from the file by another rank and compared with their checksums",
       "sample",
       one_of<Verify>(&Options::verify, {{"sample", Verify::sample}, {"all", Verify::all}, {"none", Verify::none}})},
      {"--progress auto|bar|plain|none", "bar on a terminal, a line now and then otherwise", "auto",
       one_of<ProgressStyle>(&Options::progress, {{"auto", ProgressStyle::automatic},
                                                  {"bar", ProgressStyle::bar},
                                                  {"plain", ProgressStyle::plain},
                                                  {"none", ProgressStyle::none}})},
      {"--config FILE", "file with the same options, one 'name = value' a line; the command line wins", "",
       word(&Options::config)},
      {"--version", "version of the program and its libraries", "", set_flag(&Options::version)},
      {"--verbose",
       "with --version: what a report of a fault needs, paths of the libraries, machine, devices, file system of "
       "--output",
       "", set_flag(&Options::verbose)},
      {"-h, --help", "this text", "", set_flag(&Options::help)},
  };
}

std::vector<Option> all_options() {
  auto all = options_of_problem();
  for (const auto& more : {options_of_matrix(), options_of_run()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

std::string Option::name() const {
  const auto begin = names.find("--") + 2;
  return names.substr(begin, names.find(' ', begin) - begin);
}

std::string Option::short_name() const {
  return names.starts_with("--") ? "" : names.substr(1, 1);
}

std::string Option::value() const {
  const auto space = names.find(' ', names.find("--"));
  return space == std::string::npos ? "" : names.substr(space + 1);
}

const std::vector<Option>& option_table() {
  static const auto table = all_options();
  return table;
}

std::vector<Option> table_of_network() {
  auto table = options_of_problem();
  for (auto& option : table) {
    if (option.name() == "model" || option.name() == "data") option.usual.clear();  // without them there is none
  }
  for (const auto* name : {"matrix", "device"}) {
    table.push_back(*std::find_if(option_table().begin(), option_table().end(),
                                  [&](const Option& option) { return option.name() == name; }));
  }
  return table;
}

}  // namespace hessian_mpi::run
