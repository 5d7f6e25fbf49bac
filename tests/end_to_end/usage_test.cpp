// Mistakes of users: one clear message, exit code 2, nothing written. And the texts that should keep them from
// happening.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

std::string usage_file(const std::string& name) {
  return models() / "usage" / name;
}

Words job(const std::string& model, const std::string& data) {
  return {"--model", usage_file(model), "--data", usage_file(data), "--output", "result.h5", "--threads", "1"};
}

Words good_job() {
  return job("good.pt", "data.h5");
}

std::size_t occurrences(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + word.size())) ++count;
  return count;
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

void expect_one_message(const Finished& finished, const Words& mentioned) {
  EXPECT_EQ(finished.exit_code, 2) << finished.errors << finished.output;
  EXPECT_EQ(occurrences(finished.errors, "hessian_mpi: error: "), 1U) << finished.errors;
  EXPECT_TRUE(finished.errors.starts_with("hessian_mpi: error: ")) << finished.errors;
  EXPECT_LE(lines_of(finished.errors).size(), 6U) << finished.errors;
  for (const auto& word : mentioned) {
    EXPECT_NE(lower_case(finished.errors).find(lower_case(word)), std::string::npos)
        << "'" << word << "' is not in: " << finished.errors;
  }
  for (const auto* internal :
       {"c10::", "Exception raised from", ".cpp:", "frame #", "std::", "terminate called", "HDF5-DIAG"}) {
    EXPECT_EQ(finished.errors.find(internal), std::string::npos) << finished.errors;
  }
}

bool is_empty(const Folder& folder) {
  return std::filesystem::is_empty(folder.path());
}

/// Two ranks refuse the job with one message that mentions the words, and write nothing.
void expect_refused(const Words& arguments, const Words& mentioned) {
  const Folder folder;
  const auto finished = run_program(2, arguments, folder.path());
  expect_one_message(finished, mentioned);
  EXPECT_TRUE(is_empty(folder)) << "files were left";
}

/// The same with an existing output that may be overwritten: it is not touched.
void expect_refused_and_old_file_kept(const Words& arguments, const Words& mentioned) {
  const Folder folder;
  std::ofstream(folder / "result.h5") << "old";
  const auto finished = run_program(2, arguments + Words{"--overwrite"}, folder.path());
  expect_one_message(finished, mentioned);
  EXPECT_EQ(content_of(folder / "result.h5"), "old");
  std::filesystem::remove(folder / "result.h5");
  EXPECT_TRUE(is_empty(folder)) << "files were left";
}

// A copy of a file's first half, in a folder that lives as long as the test.
std::string first_half_of(const std::string& name, const Folder& folder) {
  const auto content = content_of(usage_file(name));
  const auto path = folder / ("half_" + name);
  std::ofstream(path, std::ios::binary) << content.substr(0, content.size() / 2);
  return path;
}

// --- models
// -----------------------------------------------------------------------------------------------------------

TEST(Model, Missing) {
  expect_refused(job("nowhere.pt", "data.h5"), {"nowhere.pt", "no such file"});
}

TEST(Model, TextFile) {
  const Folder inputs;
  const auto text = inputs / "model.py";
  std::ofstream(text) << "class Net(nn.Module): ...\n";
  expect_refused({"--model", text, "--data", usage_file("data.h5"), "--output", "result.h5"}, {"model.py"});
}

TEST(Model, DataFileInItsPlace) {
  expect_refused(job("data.h5", "data.h5"), {"data.h5"});
  expect_refused(job("data.pt", "data.h5"), {"data.pt"});
}

TEST(Model, Folder) {
  expect_refused({"--model", models(), "--data", usage_file("data.h5"), "--output", "result.h5"}, {models()});
}

TEST(Model, Truncated) {
  const Folder inputs;
  for (const auto* name : {"good.pt", "good.pt2"}) {
    expect_refused({"--model", first_half_of(name, inputs), "--data", usage_file("data.h5"), "--output", "result.h5"},
                   {std::string("half_") + name});
  }
}

TEST(Model, ThrowsOnTheData) {
  expect_refused(job("good.pt", "wrong_width.h5"), {"shapes cannot be multiplied", "5x7"});
  expect_refused(job("good.pt2", "wrong_width.h5"), {"good.pt2", "[any, 3]", "[5, 7]"});
}

TEST(Model, WithoutTrainableParameters) {
  for (const auto* model : {"all_frozen.pt", "all_frozen.pt2"}) expect_refused(job(model, "data.h5"), {"parameter"});
}

TEST(Model, OperationWithoutSecondDerivativeIsNamed) {
  for (const auto* model : {"once_differentiable.pt", "once_differentiable.pt2"}) {
    expect_refused(job(model, "words.h5"), {"segment_reduce", "second derivative"});
  }
  expect_refused_and_old_file_kept(job("once_differentiable.pt", "words.h5"), {"segment_reduce"});
}

// --- data
// -------------------------------------------------------------------------------------------------------------

TEST(DataSet, Missing) {
  expect_refused(job("good.pt", "nowhere.h5"), {"nowhere.h5", "no such file"});
}

TEST(DataSet, Truncated) {
  const Folder inputs;
  for (const auto* name : {"data.h5", "data.pt"}) {
    expect_refused({"--model", usage_file("good.pt"), "--data", first_half_of(name, inputs), "--output", "result.h5"},
                   {std::string("half_") + name});
  }
}

TEST(DataSet, WithoutInputs) {
  for (const auto* data : {"no_inputs.h5", "no_inputs.pt"}) expect_refused(job("good.pt", data), {data, "inputs"});
}

TEST(DataSet, WithoutTargets) {
  for (const auto* data : {"no_targets.h5", "no_targets.pt"}) expect_refused(job("good.pt", data), {"targets"});
}

TEST(DataSet, UnequalNumbersOfSamples) {
  for (const auto* data : {"unequal.h5", "unequal.pt"}) expect_refused(job("good.pt", data), {data, "5", "4"});
}

TEST(DataSet, WithoutSamples) {
  expect_refused(job("good.pt", "no_samples.h5"), {"no_samples.h5", "sample"});
}

TEST(DataSet, FloatClassIndices) {
  for (const auto* data : {"float_classes.h5", "float_classes.pt"}) {
    expect_refused(job("good.pt", data), {"targets", "integer"});
  }
}

TEST(DataSet, ClassOutOfRangeIsNamedWithItsSample) {
  expect_refused(job("good.pt", "class_too_large.h5"), {"3", "sample"});
  expect_refused(job("good.pt2", "class_negative.pt"), {"-1", "sample 2"});
}

// --- loss
// -------------------------------------------------------------------------------------------------------------

TEST(LossValue, NotScalar) {
  for (const auto* model : {"not_scalar.pt", "not_scalar.pt2"}) {
    expect_refused(job(model, "no_targets.h5") + Words{"--loss", "output"}, {"scalar"});
  }
}

TEST(LossValue, NotFinite) {
  expect_refused(job("good.pt", "nan.h5"), {"nan"});
  expect_refused_and_old_file_kept(job("good.pt", "nan.h5"), {"nan"});
}

TEST(LossName, Unknown) {
  expect_refused(good_job() + Words{"--loss", "crossentropy"}, {"crossentropy", "cross_entropy"});
}

TEST(LossFile, NotScripted) {
  expect_refused(good_job() + Words{"--loss", usage_file("data.h5")}, {"data.h5"});
}

// --- options
// ----------------------------------------------------------------------------------------------------------

TEST(Parameters, PatternThatMatchesNothingIsNamed) {
  expect_refused(good_job() + Words{"--parameters", "conv*.weight"}, {"conv*.weight", "0.weight"});
  expect_refused(good_job() + Words{"--parameters", "*.bias", "conv*.weight"}, {"conv*.weight"});
}

TEST(Output, ExistingFileIsAnErrorAndStaysUntouched) {
  const Folder folder;
  std::ofstream(folder / "result.h5") << "old";
  expect_one_message(run_program(2, good_job(), folder.path()), {"result.h5", "--overwrite"});
  EXPECT_EQ(content_of(folder / "result.h5"), "old");
}

TEST(Output, FolderThatDoesNotExist) {
  expect_refused({"--model", usage_file("good.pt"), "--data", usage_file("data.h5"), "--output", "no/such/result.h5"},
                 {"no/such"});
}

TEST(Output, NoRoomOnTheDiskIsFoundBeforeComputing) {
  for (const auto* model : {"huge.pt", "huge.pt2"}) {
    const auto started = std::chrono::steady_clock::now();
    expect_refused(job(model, "data.h5"), {"no room", "result.h5", "GB"});
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(60));
  }
}

TEST(Options, UnknownOneIsNamed) {
  expect_refused(good_job() + Words{"--rate", "3"}, {"--rate"});
  expect_refused(good_job() + Words{"-x"}, {"-x"});
  expect_refused(good_job() + Words{"stray"}, {"--help"});
}

TEST(Options, AbbreviationsAreNotGuessed) {
  expect_refused(good_job() + Words{"--over"}, {"--over"});
}

TEST(Options, GivenTwice) {
  expect_refused(good_job() + Words{"--seed", "1", "--seed", "2"}, {"seed"});
}

TEST(Options, WithoutValue) {
  expect_refused(good_job() + Words{"--dtype"}, {"dtype"});
}

TEST(Options, ModelAndDataGoTogether) {
  expect_refused({"--model", usage_file("good.pt"), "--output", "result.h5"}, {"--model", "--data"});
  expect_refused({"--data", usage_file("data.h5"), "--output", "result.h5"}, {"--model", "--data"});
}

class BadValue : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(BadValue, IsNamedWithItsOption) {
  const auto& [option, value] = GetParam();
  expect_refused({"--model", usage_file("good.pt"), "--data", usage_file("data.h5"), option + "=" + value},
                 {option, value});
}

INSTANTIATE_TEST_SUITE_P(
    Of, BadValue,
    testing::Values(std::pair("--reduction", "median"), std::pair("--mode", "training"), std::pair("--batch-size", "0"),
                    std::pair("--batch-size", "-3"), std::pair("--batch-size", "4.5"), std::pair("--dtype", "float16"),
                    std::pair("--storage", "double"), std::pair("--threads", "none"), std::pair("--memory", "much"),
                    std::pair("--memory", "-1G"), std::pair("--check", "-1"), std::pair("--verify", "some"),
                    std::pair("--progress", "loud"), std::pair("--seed", "x"), std::pair("--method", "cols"),
                    std::pair("--device", "tpu"), std::pair("--config", "nowhere.conf")),
    [](const auto& test) {
      auto name = std::to_string(test.index) + test.param.first;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST(Plan, SaysWhatTheJobTakesAndLeavesNothingBehind) {
  const Folder folder;
  const auto planned = run_program(2, good_job() + Words{"--plan", "--method", "layers"}, folder.path());
  ASSERT_EQ(planned.exit_code, 0) << planned.errors;
  for (const auto* word : {"plan: nothing is written", "at most", "whole job", "on 64 ranks",
                           "sbatch --ntasks=", "slurm/one_node.sbatch --model", ": layers"}) {
    EXPECT_NE(planned.output.find(word), std::string::npos) << word << " is not in\n" << planned.output;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  // An output that is there already is no obstacle, and stays as it is.
  std::ofstream(folder / "hessian.h5") << "mine";
  EXPECT_EQ(run_program(1, good_job() + Words{"--plan"}, folder.path()).exit_code, 0);
  EXPECT_EQ(content_of(folder / "hessian.h5"), "mine");
}

// The bytes of a line "  memory   at most 1.25 GB a rank"; 0 where there is none.
double memory_in(const std::string& output) {
  for (const auto& line : lines_of(output)) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word != "memory") continue;
    double number = 0;
    while (words >> word) {
      const std::vector<std::string> units{"B", "kB", "MB", "GB", "TB"};
      const auto unit = std::find(units.begin(), units.end(), word);
      if (unit != units.end()) return number * std::pow(1000.0, unit - units.begin());
      std::istringstream(word) >> number;
    }
  }
  return 0;
}

// The words of some job: a model that the tests have, or the embedded example, of which a part is enough.
TEST(Plan, BoundsTheMemoryThatTheJobTakes) {
  std::vector<Words> jobs{
      {"--rows", "3/16"}, {"--rows", "15/16", "--dtype", "float64"}, {"--rows", "3/16", "--memory", "64M"}};
  for (const auto* name : {"question", "transformer", "minibatches_weighted"}) {
    for (const auto* method : {"rows", "layers"}) {
      const auto folder = models() / name;
      jobs.push_back(Words{"--model", folder / "model.pt2", "--data", folder / "data.h5", "--method", method} +
                     options_of(name));
    }
  }
  for (const auto& words : jobs) {
    const Folder folder;
    const auto job = words + Words{"--threads", "1", "--output", "result.h5"};
    const auto planned = run_program(2, job + Words{"--plan"}, folder.path());
    ASSERT_EQ(planned.exit_code, 0) << planned.errors;
    const auto finished = run_program(2, job, folder.path());
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
    const double bound = memory_in(planned.output);
    const double taken = memory_in(finished.output);
    std::string shown;
    for (const auto& word : words) shown += word + ' ';
    EXPECT_GT(taken, 50e6) << finished.output;  // LibTorch alone takes more
    EXPECT_LE(taken, bound) << shown;
  }
}

TEST(Options, ThoseThatAreAvailableAreTaken) {
  for (const auto& way : {Words{"--method", "rows"}, Words{"--method", "layers", "--accumulate", "float64"}}) {
    const Folder folder;
    const auto finished = run_program(2,
                                      good_job() + way +
                                          Words{"--device", "cpu", "--seed", "3", "--check", "0", "--verify", "all",
                                                "--progress", "bar", "--memory", "0.5G"},
                                      folder.path());
    EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  }
}

// --- configuration file
// -----------------------------------------------------------------------------------------------

class Configuration : public testing::Test {
 protected:
  std::string write(const std::string& content) {
    const auto path = inputs_ / "job.conf";
    std::ofstream(path) << content;
    return path;
  }
  std::string good() const {
    return "model = " + usage_file("good.pt") + "\ndata = " + usage_file("data.h5") + "\nthreads = 1\n";
  }

 private:
  Folder inputs_;
};

TEST_F(Configuration, GivesTheSameOptions) {
  const Folder folder;
  const auto config = write(good() + "# a comment\noutput = from_config.h5\nreduction = sum\nparameters = *.weight\n");
  const auto finished = run_program(2, {"--config", config}, folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  const StoredFile file(folder / "from_config.h5");
  EXPECT_EQ(file.attribute_text("/", "reduction"), "sum");
  EXPECT_EQ(file.strings("/parameters/name"), (Words{"0.weight", "2.weight"}));
}

TEST_F(Configuration, CommandLineWins) {
  const Folder folder;
  const auto config =
      write(good() + "output = from_config.h5\nreduction = sum\ndtype = float64\nparameters = *.weight\n");
  const auto finished = run_program(
      2, {"--config", config, "--output", "result.h5", "--reduction", "mean", "--parameters", "*.bias"}, folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_FALSE(std::filesystem::exists(folder / "from_config.h5"));
  const StoredFile file(folder / "result.h5");
  EXPECT_EQ(file.attribute_text("/", "reduction"), "mean");
  EXPECT_EQ(file.attribute_text("/", "dtype"), "float64");
  EXPECT_EQ(file.strings("/parameters/name"), (Words{"0.bias", "2.bias"}));
}

TEST_F(Configuration, UnknownKeyIsNamedWithItsFile) {
  expect_refused({"--config", write(good() + "learning-rate = 3\n")}, {"job.conf", "learning-rate"});
}

TEST_F(Configuration, BadValueIsNamed) {
  expect_refused({"--config", write(good() + "dtype = float8\n")}, {"dtype", "float8"});
}

// --- help
// -------------------------------------------------------------------------------------------------------------

const Words options_of_the_contract{
    "accumulate", "model",  "data",       "loss",   "loss-option", "l2",      "reduction", "mode",
    "batch-size", "dtype",  "parameters", "seed",   "matrix",      "method",  "device",    "rows",
    "threads",    "memory", "time-limit", "plan",   "output",      "storage", "resume",    "overwrite",
    "check",      "verify", "progress",   "config", "version",     "help",    "blocks",    "diagonal"};

// Option -> its part of the help text.
std::map<std::string, std::string> options_in_help(const std::string& help) {
  const std::regex start(R"(^\s+(?:-\w \[ )?--([a-z][a-z0-9-]*).*)");
  std::map<std::string, std::string> options;
  std::string current;
  for (const auto& line : lines_of(help)) {
    std::smatch match;
    if (std::regex_match(line, match, start)) current = match[1];
    if (line.empty()) current.clear();
    if (!current.empty()) options[current] += std::regex_replace(line, std::regex(R"(^\s+)"), "") + " ";
  }
  return options;
}

TEST(Help, ListsEveryOptionOfTheContractOnce) {
  const Folder folder;
  const auto finished = run_program(2, {"--help"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0);
  EXPECT_EQ(finished.errors, "");
  std::set<std::string> listed;
  for (const auto& [name, text] : options_in_help(finished.output)) listed.insert(name);
  EXPECT_EQ(listed, std::set<std::string>(options_of_the_contract.begin(), options_of_the_contract.end()))
      << finished.output;
  EXPECT_EQ(finished.output, run_program(1, {"-h"}, folder.path()).output) << "help is repeated for every rank";
  EXPECT_TRUE(is_empty(folder));
}

TEST(Version, NamesTheProgramAndItsLibraries) {
  const Folder folder;
  const auto finished = run_program(2, {"--version"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0);
  EXPECT_EQ(finished.errors, "");
  for (const auto* name : {"hessian_mpi", "LibTorch 2.", "MPI", "HDF5 1."}) {
    EXPECT_EQ(occurrences(finished.output, name) > 0, true) << finished.output;
  }
  EXPECT_EQ(finished.output, run_program(1, {"--version"}, folder.path()).output);
  EXPECT_TRUE(is_empty(folder));
}

// A row of a document's option table: what the first cell names, and the last cell.
struct TableRow {
  Words options;
  std::string last_cell;
};

std::vector<TableRow> option_table(const std::string& document) {
  std::vector<TableRow> rows;
  for (const auto& line : lines_of(document)) {
    if (!line.starts_with("| `-")) continue;
    TableRow row;
    const auto first_cell = line.substr(2, line.find(" |", 2) - 2);
    const std::regex option(R"(--([a-z][a-z0-9-]*))");
    for (std::sregex_iterator match(first_cell.begin(), first_cell.end(), option), end; match != end; ++match) {
      row.options.push_back((*match)[1]);
    }
    const auto body = line.substr(0, line.find_last_of('|'));
    row.last_cell = body.substr(body.find_last_of('|') + 1);
    rows.push_back(row);
  }
  return rows;
}

/// The options in a document's table, each of which --help has, with the same default.
std::set<std::string> options_as_in_help(const std::string& document, const std::map<std::string, std::string>& help) {
  std::set<std::string> options;
  for (const auto& row : option_table(content_of(document))) {
    options.insert(row.options.begin(), row.options.end());
    std::smatch value;
    if (row.options.size() != 1 || !std::regex_match(row.last_cell, value, std::regex(R"(\s*`([^`]+)`\s*)"))) continue;
    const auto found = help.find(row.options.front());
    if (found == help.end()) continue;  // the caller names it
    EXPECT_NE(found->second.find("[" + value[1].str() + "]"), std::string::npos)
        << "the default of --" << found->first << " is " << value[1] << " in " << document
        << "; --help: " << found->second;
  }
  return options;
}

TEST(OptionTables, AgreeWithHelp) {
  const auto help = options_in_help(run_program(1, {"--help"}, models()).output);
  std::set<std::string> in_help;
  for (const auto& [name, text] : help) in_help.insert(name);
  EXPECT_EQ(options_as_in_help(HESSIAN_MPI_OPTIONS_PAGE, help), in_help);
  const auto first = options_as_in_help(HESSIAN_MPI_README, help);
  for (const auto& option : first) EXPECT_EQ(in_help.count(option), 1U) << option << " is in the README's table alone";
  for (const auto* needed : {"model", "data", "loss", "output", "resume", "plan"}) EXPECT_EQ(first.count(needed), 1U);
}

}  // namespace
}  // namespace end_to_end
