#include "hessian_mpi/run/options.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "expect_error.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/file/same_job.hpp"
#include "option_table.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::run {
namespace {

// The options of a command line, given without the program's name.
Options parsed(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"hessian_mpi"};
  for (const auto& word : words) argv.push_back(word.c_str());
  return parse_options(static_cast<int>(argv.size()), argv.data());
}

std::vector<std::string> words_after_program(const std::string& command_line) {
  std::istringstream in(command_line);
  std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
  words.erase(words.begin());
  return words;
}

void expect_refused(const std::vector<std::string>& words, std::initializer_list<std::string> parts) {
  std::string line;
  for (const auto& word : words) line += word + " ";
  const testing::ScopedTrace trace(__FILE__, __LINE__, line);
  expect_input_error([&] { parsed(words); }, parts);
}

// A configuration file with the lines.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& lines) { std::ofstream(path()) << lines; }
  std::string path() const { return (folder_ / "job.cfg").string(); }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

TEST(Options, HaveTheDefaultsOfTheManual) {
  const auto options = parsed({});
  EXPECT_FALSE(options.model.has_value());
  EXPECT_FALSE(options.data.has_value());
  EXPECT_EQ(options.loss, "cross_entropy");
  EXPECT_TRUE(options.loss_options.empty());
  EXPECT_EQ(options.l2, 0);
  EXPECT_EQ(options.reduction, Reduction::mean);
  EXPECT_EQ(options.mode, Mode::eval);
  EXPECT_FALSE(options.batch_size.has_value());
  EXPECT_FALSE(options.dtype.has_value());
  EXPECT_EQ(options.parameters, std::vector<std::string>{"*"});
  EXPECT_EQ(options.seed, 0U);
  EXPECT_FALSE(options.threads.has_value());
  EXPECT_FALSE(options.memory.has_value());
  EXPECT_EQ(options.output, "hessian.h5");
  EXPECT_FALSE(options.storage.has_value());
  EXPECT_FALSE(options.overwrite);
  EXPECT_EQ(options.check_rows, 8);
  EXPECT_EQ(options.verify, Verify::sample);
  EXPECT_EQ(options.progress, ProgressStyle::automatic);
  EXPECT_FALSE(options.help);
  EXPECT_FALSE(options.version);
}

TEST(Options, NameFiles) {
  const auto options =
      parsed({"--model", "net.pt2", "--data", "batch.h5", "--loss", "my loss.pt", "--output", "out/h.h5"});
  EXPECT_EQ(options.model, "net.pt2");
  EXPECT_EQ(options.data, "batch.h5");
  EXPECT_EQ(options.loss, "my loss.pt");
  EXPECT_EQ(options.output, "out/h.h5");
}

TEST(Options, HaveShortNames) {
  const auto options = parsed({"-m", "net.pt", "-d", "batch.pt", "-l", "mse", "-o", "h.h5"});
  EXPECT_EQ(options.model, "net.pt");
  EXPECT_EQ(options.data, "batch.pt");
  EXPECT_EQ(options.loss, "mse");
  EXPECT_EQ(options.output, "h.h5");
  EXPECT_TRUE(parsed({"-h"}).help);
}

TEST(Options, TakeValuesAfterAnEqualsSign) {
  EXPECT_EQ(parsed({"--loss=mse"}).loss, "mse");
  EXPECT_EQ(parsed({"--batch-size=16"}).batch_size, 16);
}

TEST(Options, ChooseHowTheLossIsTaken) {
  EXPECT_EQ(parsed({"--reduction", "sum"}).reduction, Reduction::sum);
  EXPECT_EQ(parsed({"--reduction", "mean"}).reduction, Reduction::mean);
  EXPECT_EQ(parsed({"--mode", "train"}).mode, Mode::train);
  EXPECT_EQ(parsed({"--mode", "eval"}).mode, Mode::eval);
  EXPECT_EQ(parsed({"--batch-size", "1"}).batch_size, 1);
  EXPECT_EQ(parsed({"--batch-size", "5000000000"}).batch_size, 5'000'000'000);
}

TEST(Options, ChooseTypes) {
  EXPECT_EQ(parsed({"--dtype", "float32"}).dtype, Precision::float32);
  EXPECT_EQ(parsed({"--dtype", "float64"}).dtype, Precision::float64);
  EXPECT_EQ(parsed({"--storage", "float32"}).storage, Precision::float32);
  EXPECT_EQ(parsed({"--storage", "float64"}).storage, Precision::float64);
  EXPECT_FALSE(parsed({"--dtype", "float64"}).storage.has_value()) << "as --dtype, which is decided later";
}

TEST(Options, TakeSeveralPatterns) {
  using Patterns = std::vector<std::string>;
  EXPECT_EQ(parsed({"--parameters", "fc.*"}).parameters, Patterns{"fc.*"});
  EXPECT_EQ(parsed({"--parameters", "fc.*", "conv?.bias", "--seed", "1"}).parameters, (Patterns{"fc.*", "conv?.bias"}));
  EXPECT_EQ(parsed({"--parameters", "fc.*", "--seed", "1", "--parameters", "conv*"}).parameters,
            (Patterns{"fc.*", "conv*"}));
}

TEST(Options, TakeSeveralArgumentsOfALoss) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(parsed({"--loss-option", "weight=1,2,0.5", "ignore_index=-1", "--seed", "1"}).loss_options,
            (Words{"weight=1,2,0.5", "ignore_index=-1"}));
  EXPECT_EQ(parsed({"--loss-option", "weight=1,2", "--loss-option=label_smoothing=0.1"}).loss_options,
            (Words{"weight=1,2", "label_smoothing=0.1"}));
  EXPECT_EQ(parsed({"--loss-option", "weight=1,2 label_smoothing=0.1"}).loss_options,
            (Words{"weight=1,2", "label_smoothing=0.1"}));
  expect_refused({"--loss-option"}, {"--loss-option"});
}

TEST(Options, HaveAnL2Term) {
  EXPECT_EQ(parsed({"--l2", "1e-4"}).l2, 1e-4);
  EXPECT_EQ(parsed({"--l2", "0"}).l2, 0);
  for (const auto* wrong : {"", "-1", "much", "1e-4x", "nan", "inf", "1e999", "0,1"}) {
    expect_refused({std::string("--l2=") + wrong, "--progress", "none"}, {"--l2"});
  }
}

TEST(Options, SetTheResourcesOfARank) {
  EXPECT_EQ(parsed({"--seed", "0"}).seed, 0U);
  EXPECT_EQ(parsed({"--seed", "9223372036854775807"}).seed, 9'223'372'036'854'775'807U);
  EXPECT_EQ(parsed({"--threads", "12"}).threads, 12);
  EXPECT_EQ(parsed({"--memory", "512M"}).memory, 512U << 20);
}

TEST(Options, ChooseChecksAndDisplay) {
  EXPECT_EQ(parsed({"--check", "0"}).check_rows, 0);
  EXPECT_EQ(parsed({"--check", "100"}).check_rows, 100);
  EXPECT_EQ(parsed({"--verify", "all"}).verify, Verify::all);
  EXPECT_EQ(parsed({"--verify", "none"}).verify, Verify::none);
  EXPECT_EQ(parsed({"--verify", "sample"}).verify, Verify::sample);
  EXPECT_EQ(parsed({"--progress", "auto"}).progress, ProgressStyle::automatic);
  EXPECT_EQ(parsed({"--progress", "bar"}).progress, ProgressStyle::bar);
  EXPECT_EQ(parsed({"--progress", "plain"}).progress, ProgressStyle::plain);
  EXPECT_EQ(parsed({"--progress", "none"}).progress, ProgressStyle::none);
  EXPECT_TRUE(parsed({"--overwrite"}).overwrite);
  EXPECT_TRUE(parsed({"--plan"}).plan);
  EXPECT_FALSE(parsed({}).plan);
}

TEST(Options, TakeTheMethodsAndDevicesThatThereAre) {
  for (const auto* method : {"auto", "rows", "layers"}) EXPECT_NO_THROW(parsed({"--method", method}));
  EXPECT_EQ(parsed({}).device, DeviceChoice::automatic);
  EXPECT_EQ(parsed({"--device", "cpu"}).device, DeviceChoice::cpu);
  EXPECT_EQ(parsed({"--device", "cuda"}).device, DeviceChoice::cuda);
}

TEST(Options, RefuseUnknownNames) {
  expect_refused({"--modle", "net.pt"}, {"--modle", "--help"});
  expect_refused({"-x"}, {"-x"});
  expect_refused({"net.pt"}, {"option", "--help"});
  expect_refused({"--overwrite", "net.pt"}, {"option", "--help"});
}

// A script that abbreviates breaks when an option with the same beginning is added.
TEST(Options, AreNeverAbbreviated) {
  expect_refused({"--para", "*"}, {"--para"});
}

TEST(Options, RefuseRepetitionsAndMissingValues) {
  expect_refused({"--loss", "mse", "--loss", "nll"}, {"--loss"});
  expect_refused({"--loss"}, {"--loss"});
  expect_refused({"--parameters"}, {"--parameters"});
  expect_refused({"--overwrite=yes"}, {"--overwrite"});
}

TEST(Options, RefuseWordsThatAreNoneOfTheChoices) {
  expect_refused({"--reduction", "none"}, {"--reduction", "'none'", "mean", "sum"});
  expect_refused({"--mode", "test"}, {"--mode", "'test'", "eval", "train"});
  expect_refused({"--dtype", "float16"}, {"--dtype", "'float16'", "float32", "float64"});
  expect_refused({"--storage", "double"}, {"--storage", "'double'", "float32", "float64"});
  expect_refused({"--verify", "some"}, {"--verify", "'some'", "sample", "all", "none"});
  expect_refused({"--progress", "loud"}, {"--progress", "'loud'", "auto", "bar", "plain", "none"});
  expect_refused({"--method", "magic"}, {"--method", "'magic'", "auto", "rows", "layers"});
  expect_refused({"--device", "tpu"}, {"--device", "'tpu'", "auto", "cpu"});
}

TEST(Options, RefuseNumbersThatAreNone) {
  for (const auto* option : {"--batch-size", "--threads", "--check", "--seed"}) {
    for (const auto* word : {"many", "", "3.5", "4x", "-1", "99999999999999999999", "0x10"}) {
      expect_refused({std::string(option) + "=" + word, "--progress", "none"}, {option});
    }
  }
  expect_refused({"--batch-size", "0"}, {"--batch-size", "'0'", "1"});
  expect_refused({"--threads", "0"}, {"--threads", "'0'", "1"});
}

TEST(Options, RefuseSizesThatAreNone) {
  expect_refused({"--memory", "lots"}, {"'lots'", "512M"});
}

TEST(Options, WantModelAndDataTogether) {
  expect_refused({"--model", "net.pt"}, {"--model", "--data"});
  expect_refused({"--data", "batch.h5"}, {"--data", "--model"});
  expect_refused({"--values", "checkpoint.pt"}, {"--values", "--model", "--data"});
}

TEST(Options, RefuseAnOutputThatIsNoFile) {
  expect_refused({"--output", "results/"}, {"--output", "'results/'"});
}

TEST(Options, LetHelpAndVersionStandBesideAnything) {
  EXPECT_TRUE(parsed({"--help", "--model", "net.pt"}).help);
  EXPECT_TRUE(parsed({"--version", "--resume"}).version);
}

TEST(Options, TakeVerboseForVersionAlone) {
  const auto options = parsed({"--version", "--verbose", "--output", "there.h5"});
  EXPECT_TRUE(options.version && options.verbose);
  EXPECT_EQ(options.output, "there.h5");
  expect_refused({"--verbose"}, {"--verbose", "--version"});
}

TEST(Options, KeepTheCommandLine) {
  EXPECT_EQ(parsed({"--loss", "mse", "--seed", "3"}).command_line, "hessian_mpi --loss mse --seed 3");
}

TEST(Options, KeepACommandLineThatAShellReadsAgain) {
  const auto line = parsed({"--parameters", "fc.*", "--loss", "it's mine.pt", "--output", "a b.h5"}).command_line;
  EXPECT_EQ(line, R"(hessian_mpi --parameters 'fc.*' --loss 'it'\''s mine.pt' --output 'a b.h5')");
}

TEST(ConfigFiles, HoldTheSameOptions) {
  const ConfigFile config(
      "# a job\n"
      "model = net.pt2\n"
      "data = batch.h5\n"
      "batch-size = 16\n"
      "\n"
      "dtype=float64\n"
      "overwrite = true\n");
  const auto options = parsed({"--config", config.path()});
  EXPECT_EQ(options.model, "net.pt2");
  EXPECT_EQ(options.data, "batch.h5");
  EXPECT_EQ(options.batch_size, 16);
  EXPECT_EQ(options.dtype, Precision::float64);
  EXPECT_TRUE(options.overwrite);
  EXPECT_EQ(options.loss, "cross_entropy");
}

TEST(ConfigFiles, LoseAgainstTheCommandLine) {
  const ConfigFile config("loss = mse\nbatch-size = 16\nseed = 5\n");
  const auto options = parsed({"--seed", "6", "--config", config.path(), "--loss", "nll"});
  EXPECT_EQ(options.loss, "nll");
  EXPECT_EQ(options.seed, 6U);
  EXPECT_EQ(options.batch_size, 16);
}

TEST(ConfigFiles, LoseWhatTheCommandLineSaysOtherwise) {
  const ConfigFile config("overwrite = true\ndiagonal = true\n");
  EXPECT_TRUE(parsed({"--config", config.path()}).overwrite);
  const auto resumed = parsed({"--config", config.path(), "--resume"});
  EXPECT_TRUE(resumed.resume);
  EXPECT_FALSE(resumed.overwrite);
  EXPECT_EQ(resumed.entries, Entries::diagonal);
  EXPECT_EQ(parsed({"--config", config.path(), "--blocks", "all"}).entries, Entries::all);
  const ConfigFile to_resume("resume = true\nblocks = diagonal\n");
  const auto overwriting = parsed({"--overwrite", "--diagonal", "--config", to_resume.path()});
  EXPECT_TRUE(overwriting.overwrite);
  EXPECT_FALSE(overwriting.resume);
  EXPECT_EQ(overwriting.entries, Entries::diagonal);
  expect_refused({"--resume", "--overwrite", "--config", config.path()}, {"--resume", "--overwrite"});
  const ConfigFile both("overwrite = true\nresume = true\n");
  expect_refused({"--config", both.path()}, {"--resume", "--overwrite"});
}

TEST(ConfigFiles, HoldPatterns) {
  const ConfigFile config("parameters = fc.*\nparameters = conv*\n");
  EXPECT_EQ(parsed({"--config", config.path()}).parameters, (std::vector<std::string>{"fc.*", "conv*"}));
}

TEST(ConfigFiles, LoseTheirPatternsAgainstTheCommandLine) {
  const ConfigFile config("parameters = fc.*\n");
  EXPECT_EQ(parsed({"--config", config.path(), "--parameters", "conv*"}).parameters, std::vector<std::string>{"conv*"});
}

TEST(ConfigFiles, HoldArgumentsOfTheLoss) {
  using Words = std::vector<std::string>;
  const ConfigFile config("loss-option = weight=1,2 ignore_index=0\nloss-option = label_smoothing=0.1\nl2 = 0.5\n");
  EXPECT_EQ(parsed({"--config", config.path()}).loss_options,
            (Words{"weight=1,2", "ignore_index=0", "label_smoothing=0.1"}));
  EXPECT_EQ(parsed({"--config", config.path()}).l2, 0.5);
  EXPECT_EQ(parsed({"--config", config.path(), "--loss-option", "weight=3"}).loss_options, Words{"weight=3"});
}

TEST(ConfigFiles, AreNamedWhereTheyAreWrong) {
  const ConfigFile unknown("modle = net.pt\n");
  expect_refused({"--config", unknown.path()}, {"--config", unknown.path(), "modle"});
  const ConfigFile broken("this is no option\n");
  expect_refused({"--config", broken.path()}, {"--config", broken.path()});
  expect_refused({"--config", "missing.cfg"}, {"--config", "missing.cfg"});
  expect_refused({"--config", std::filesystem::temp_directory_path().string()}, {"--config"});
}

TEST(ConfigFiles, AreCheckedLikeTheCommandLine) {
  const ConfigFile wrong("dtype = float16\n");
  expect_refused({"--config", wrong.path()}, {"--dtype", "'float16'"});
  const ConfigFile device("device = tpu\n");
  expect_refused({"--config", device.path()}, {"--device", "'tpu'"});
}

TEST(Help, NamesEveryOptionOfTheManual) {
  std::ostringstream out;
  print_help(out);
  for (const auto* option :
       {"-m, --model",   "-d, --data", "-l, --loss",   "--reduction",       "--mode",   "--batch-size", "--dtype",
        "--parameters",  "--seed",     "--method",     "--device",          "--rows",   "--threads",    "--memory",
        "--time-limit",  "--plan",     "-o, --output", "--storage",         "--resume", "--overwrite",  "--check",
        "--loss-option", "--l2",       "--whole",      "--with-respect-to", "--verify", "--progress",   "--config",
        "--version",     "--verbose",  "-h, --help"}) {
    EXPECT_NE(out.str().find(option), std::string::npos) << option;
  }
}

TEST(Options, WithRespectToNamesInputs) {
  EXPECT_FALSE(parsed({}).inputs.has_value());
  EXPECT_FALSE(parsed({"--with-respect-to", "parameters"}).inputs.has_value());
  EXPECT_EQ(parsed({"--with-respect-to", "inputs"}).inputs, std::vector<std::string>());
  EXPECT_EQ(parsed({"--with-respect-to", "inputs:x"}).inputs, std::vector<std::string>{"x"});
  EXPECT_EQ(parsed({"--with-respect-to", "inputs:x,y"}).inputs, (std::vector<std::string>{"x", "y"}));
  for (const auto* wrong : {"input", "inputs:", "inputs:,", "parameters:x", "outputs"}) {
    expect_refused({"--with-respect-to", wrong}, {"--with-respect-to", wrong, "inputs:NAME"});
  }
  const ConfigFile file("with-respect-to = inputs:x\n");
  EXPECT_FALSE(parsed({"--config", file.path(), "--with-respect-to", "parameters"}).inputs.has_value());
}

TEST(Options, OfParametersAreRefusedByInputs) {
  const auto by_inputs = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"--with-respect-to", "inputs"});
    return more;
  };
  expect_refused(by_inputs({"--method", "layers"}), {"--method layers", "--with-respect-to"});
  expect_refused(by_inputs({"--parameters", "*.weight"}), {"--parameters", "inputs:NAME"});
  expect_refused(by_inputs({"--l2", "0.1"}), {"--l2", "--with-respect-to"});
}

TEST(Help, TellsExitCodesAndFitsATerminal) {
  std::ostringstream out;
  print_help(out);
  EXPECT_NE(out.str().find("Exit codes"), std::string::npos);
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120U) << line;
}

TEST(Rows, AreARangeOrOneOfSoManyParts) {
  EXPECT_FALSE(parsed({}).rows || parsed({}).part_of_rows);
  EXPECT_EQ(parsed({"--rows", "100:250"}).rows, (Rows{100, 250}));
  EXPECT_FALSE(parsed({"--rows", "100:250"}).part_of_rows);
  const auto part = parsed({"--rows", "3/16"});
  ASSERT_TRUE(part.part_of_rows);
  EXPECT_EQ(part.part_of_rows->part, 3);
  EXPECT_EQ(part.part_of_rows->parts, 16);
  EXPECT_FALSE(part.rows);
  for (const auto* wrong : {"", "7", "7:", ":7", "7:7", "8:7", "-1:7", "16/16", "3/0", "-1/4", "0:7x", "0-7", "a:b",
                            "99999999999999999999:7"}) {
    expect_refused({"--rows", wrong}, {"--rows", "BEGIN:END", "K/M"});
  }
}

TEST(TimeLimit, IsReadAsSlurmWritesTimes) {
  const auto limit = [](const std::string& word) { return parsed({"--time-limit", word}).time_limit; };
  EXPECT_FALSE(parsed({}).time_limit);
  EXPECT_EQ(limit("3600"), 3600);
  EXPECT_EQ(limit("0"), 0);
  EXPECT_EQ(limit("30:00"), 1800);
  EXPECT_EQ(limit("5:07"), 307);
  EXPECT_EQ(limit("1:00:00"), 3600);
  EXPECT_EQ(limit("1:02:03"), 3723);
  EXPECT_EQ(limit("2-12:00:01"), 216001);
  EXPECT_EQ(limit("2-12"), 216000);
  EXPECT_EQ(limit("2-12:30"), 217800);
  EXPECT_FALSE(limit("UNLIMITED"));
  for (const auto* wrong : {"", "soon", "-5", "1:2:3:4", "1:", ":30", "1-", "2h", "1.5", "INVALID"}) {
    expect_refused({"--time-limit", wrong}, {"--time-limit", "is not a time"});
  }
}

TEST(Resume, ExcludesOverwrite) {
  EXPECT_TRUE(parsed({"--resume"}).resume);
  EXPECT_FALSE(parsed({}).resume);
  expect_refused({"--resume", "--overwrite"}, {"--resume", "--overwrite"});
}

// --- the table, and what cannot be made from it

// "--reduction mean or sum" and "mean" of a row "| `--reduction mean or sum` | ... | `mean` |".
using DocumentRow = std::pair<std::string, std::string>;

std::vector<DocumentRow> rows_of_document(const std::string& path) {
  std::ifstream document(path);
  std::vector<DocumentRow> rows;
  for (std::string line; std::getline(document, line);) {
    if (!line.starts_with("| `-")) continue;
    std::erase(line, '`');
    const auto last = line.find_last_of('|', line.size() - 2);
    const auto usual = line.size() - last > 4 ? line.substr(last + 2, line.size() - last - 4) : "";
    rows.emplace_back(line.substr(2, line.find(" |", 2) - 2), usual);
  }
  return rows;
}

std::vector<DocumentRow> rows_of_table() {
  std::vector<DocumentRow> rows;
  for (const auto& option : option_table()) {
    auto names = option.names;
    const auto last = names.rfind('|');
    if (last != std::string::npos) names.replace(last, 1, " or ");
    for (auto at = names.find('|'); at != std::string::npos; at = names.find('|', at)) names.replace(at, 1, ", ");
    rows.emplace_back(names, option.usual);
  }
  return rows;
}

TEST(OptionTable, IsThatOfTheDocuments) {
  const auto rows = rows_of_table();
  EXPECT_EQ(rows_of_document(HESSIAN_MPI_SOURCES "/src/run/options.md"), rows);
  const auto first = rows_of_document(HESSIAN_MPI_SOURCES "/README.md");
  for (const auto& row : first) {
    EXPECT_NE(std::find(rows.begin(), rows.end(), row), rows.end()) << row.first << " [" << row.second << "]";
  }
  EXPECT_GE(first.size(), 10U) << "the README has no table";
}

TEST(OptionTable, HasTheAttributesThatDecideTheJob) {
  std::set<std::string> attributes;
  for (const auto& option : option_table()) {
    for (const auto& attribute : option.attributes) attributes.insert(attribute.name);
  }
  // Files may have other names, patterns other words: what is in them and what they match is compared.
  for (const auto* name : {"model", "values", "data", "parameters"}) EXPECT_EQ(attributes.erase(name), 1U) << name;
  // What decides the job beside them, or is known only after the options were looked at.
  attributes.insert({"samples", "method", "hessian_mpi_version", "libtorch_version"});
  EXPECT_EQ(std::set<std::string>(file::deciding_attributes.begin(), file::deciding_attributes.end()), attributes);
}

TEST(Options, OfAConfigurationFileThatPlansAreThoseOfThePrintedLine) {
  const ConfigFile file("plan = true\nresume = false\nl2 = 0.5\nseed = 3\nparameters = c1.weight\ncheck = 0\n");
  const auto planning = parsed({"--seed", "4", "--config", file.path()});
  EXPECT_TRUE(planning.plan);
  const auto line = "hessian_mpi" + cli::options_of_job(planning.command_line, planning.options_beside_plan);
  const auto job = parsed(words_after_program(line));
  EXPECT_FALSE(job.plan) << line;
  EXPECT_FALSE(job.config) << line;
  EXPECT_EQ(job.seed, 4U) << line;
  EXPECT_EQ(job.l2, 0.5) << line;
  EXPECT_EQ(job.check_rows, 0) << line;
  EXPECT_EQ(job.parameters, planning.parameters) << line;
}

TEST(OptionTable, HasNoFlagThatKeepsAPrintedLineFromWorking) {
  for (const auto& option : option_table()) {
    if (!option.value().empty() || std::set<std::string>{"help", "version", "verbose"}.contains(option.name()))
      continue;
    const auto line = "hessian_mpi --" + option.name();
    EXPECT_TRUE(parsed(words_after_program(cli::command_line_to_resume(line))).resume) << line;
    EXPECT_FALSE(parsed(words_after_program("hessian_mpi" + cli::options_of_job(line))).plan) << line;
  }
}

}  // namespace
}  // namespace hessian_mpi::run
