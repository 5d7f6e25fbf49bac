// Mistakes of users: one clear message, exit code 2, nothing written. And the texts that should keep them from
// happening.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <ostream>
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

void expect_one_message(const Finished& finished, const Words& mentioned, int exit_code = 2) {
  EXPECT_EQ(finished.exit_code, exit_code) << finished.errors << finished.output;
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

TEST(Model, Missing) {
  expect_refused(job("nowhere.pt", "data.h5"), {"nowhere.pt", "no such file"});
}

TEST(Output, ExistingFileIsAnErrorAndStaysUntouched) {
  const Folder folder;
  std::ofstream(folder / "result.h5") << "old";
  expect_one_message(run_program(2, good_job(), folder.path()), {"result.h5", "--overwrite"});
  EXPECT_EQ(content_of(folder / "result.h5"), "old");
}

TEST(Output, NoRoomOnTheDiskIsFoundBeforeComputing) {
  for (const auto* model : {"huge.pt", "huge.pt2"}) {
    const auto started = std::chrono::steady_clock::now();
    expect_refused(job(model, "data.h5"), {"no room", "result.h5", "GB"});
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(60));
  }
}

TEST(Memory, ThatRunsOutInAnOperatorIsNoMistakeOfTheInput) {
  for (const auto* model : {"greedy.pt", "greedy.pt2"}) {
    const Folder folder;
    const auto finished = run_program(2, job(model, "data.h5"), folder.path());
    expect_one_message(finished, {"out of memory", "20000000000000000 bytes", "fewer ranks", "--batch-size"}, 1);
    EXPECT_TRUE(is_empty(folder)) << "files were left";
  }
}

TEST(Options, UnknownOneIsNamed) {
  expect_refused(good_job() + Words{"--rate", "3"}, {"--rate"});
}

// --- mistakes, tried together
// ---------------------------------------------------------------------------------------------

struct Mistake {
  std::string name;
  Words arguments;
  Words mentioned;
  bool over_old_file = false;  ///< an output is there already and may be overwritten

  friend std::ostream& operator<<(std::ostream& out, const Mistake& mistake) { return out << mistake.name; }
};

// Files that make_files() makes, in a folder that lives as long as the tests.
std::string made_file(const std::string& name) {
  static const Folder folder;
  return folder / name;
}

std::string good_configuration() {
  return "model = " + usage_file("good.pt") + "\ndata = " + usage_file("data.h5") + "\nthreads = 1\n";
}

void make_files() {
  std::ofstream(made_file("model.py")) << "class Net(nn.Module): ...\n";
  for (const auto* name : {"good.pt", "good.pt2", "data.h5", "data.pt"}) {
    const auto content = content_of(usage_file(name));
    std::ofstream(made_file(std::string("half_") + name), std::ios::binary) << content.substr(0, content.size() / 2);
  }
  std::ofstream(made_file("unknown_key.conf")) << good_configuration() << "learning-rate = 3\n";
  std::ofstream(made_file("bad_value.conf")) << good_configuration() << "dtype = float8\n";
}

Words job_of(const std::string& model, const std::string& data) {
  return {"--model", model, "--data", data, "--output", "result.h5"};
}

std::vector<Mistake> mistakes_in_models() {
  const auto data = usage_file("data.h5");
  const Words no_second_derivative{"segment_reduce", "second derivative"};
  return {
      {"Model_TextFile", job_of(made_file("model.py"), data), {"model.py"}},
      {"Model_HDF5File", job("data.h5", "data.h5"), {"data.h5"}},
      {"Model_FileOfTensors", job("data.pt", "data.h5"), {"data.pt"}},
      {"Model_Folder", job_of(models(), data), {models()}},
      {"Model_Truncated", job_of(made_file("half_good.pt"), data), {"half_good.pt"}},
      {"Model_TruncatedPt2", job_of(made_file("half_good.pt2"), data), {"half_good.pt2"}},
      {"Model_ThrowsOnTheData", job("good.pt", "wrong_width.h5"), {"shapes cannot be multiplied", "5x7"}},
      {"Model_ThrowsOnTheDataPt2", job("good.pt2", "wrong_width.h5"), {"good.pt2", "[any, 3]", "[5, 7]"}},
      {"Model_WithoutTrainableParameters", job("all_frozen.pt", "data.h5"), {"parameter"}},
      {"Model_WithoutTrainableParametersPt2", job("all_frozen.pt2", "data.h5"), {"parameter"}},
      {"Model_WithoutSecondDerivative", job("once_differentiable.pt", "words.h5"), no_second_derivative},
      {"Model_WithoutSecondDerivativePt2", job("once_differentiable.pt2", "words.h5"), no_second_derivative},
      {"Model_WithoutSecondDerivativeOverOldFile", job("once_differentiable.pt", "words.h5"), {"segment_reduce"}, true},
  };
}

std::vector<Mistake> mistakes_in_data_and_losses() {
  const auto good = usage_file("good.pt");
  return {
      {"DataSet_Missing", job("good.pt", "nowhere.h5"), {"nowhere.h5", "no such file"}},
      {"DataSet_Truncated", job_of(good, made_file("half_data.h5")), {"half_data.h5"}},
      {"DataSet_TruncatedPt", job_of(good, made_file("half_data.pt")), {"half_data.pt"}},
      {"DataSet_WithoutInputs", job("good.pt", "no_inputs.h5"), {"no_inputs.h5", "inputs"}},
      {"DataSet_WithoutInputsPt", job("good.pt", "no_inputs.pt"), {"no_inputs.pt", "inputs"}},
      {"DataSet_WithoutTargets", job("good.pt", "no_targets.h5"), {"targets"}},
      {"DataSet_WithoutTargetsPt", job("good.pt", "no_targets.pt"), {"targets"}},
      {"DataSet_UnequalNumbersOfSamples", job("good.pt", "unequal.h5"), {"unequal.h5", "5", "4"}},
      {"DataSet_UnequalNumbersOfSamplesPt", job("good.pt", "unequal.pt"), {"unequal.pt", "5", "4"}},
      {"DataSet_WithoutSamples", job("good.pt", "no_samples.h5"), {"no_samples.h5", "sample"}},
      {"DataSet_FloatClassIndices", job("good.pt", "float_classes.h5"), {"targets", "integer"}},
      {"DataSet_FloatClassIndicesPt", job("good.pt", "float_classes.pt"), {"targets", "integer"}},
      {"DataSet_ClassTooLarge", job("good.pt", "class_too_large.h5"), {"3", "sample"}},
      {"DataSet_ClassNegative", job("good.pt2", "class_negative.pt"), {"-1", "sample 2"}},
      {"LossValue_NotScalar", job("not_scalar.pt", "no_targets.h5") + Words{"--loss", "output"}, {"scalar"}},
      {"LossValue_NotScalarPt2", job("not_scalar.pt2", "no_targets.h5") + Words{"--loss", "output"}, {"scalar"}},
      {"LossValue_NotFinite", job("good.pt", "nan.h5"), {"nan"}},
      {"LossValue_NotFiniteOverOldFile", job("good.pt", "nan.h5"), {"nan"}, true},
      {"LossName_Unknown", good_job() + Words{"--loss", "crossentropy"}, {"crossentropy", "cross_entropy"}},
      {"LossFile_Pickle",
       good_job() + Words{"--loss", usage_file("pickled_loss.pt")},
       {"pickled_loss.pt", "torch.save", "torch.jit.script(loss)"}},
      {"LossFile_Sum",
       good_job() + Words{"--loss", usage_file("sum_of_squares.pt"), "--batch-size", "2"},
       {"adds up its samples", "--reduction sum"}},
      {"Whole_NoInput", good_job() + Words{"--whole", "edges"}, {"--whole 'edges'"}},
      {"Inputs_Unknown", good_job() + Words{"--with-respect-to", "inputs:edges"}, {"'edges'", "--with-respect-to"}},
      {"Inputs_Integers",
       job("good.pt", "words.h5") + Words{"--with-respect-to", "inputs"},
       {"int64", "floating-point"}},
      {"LossFile_NotScripted", good_job() + Words{"--loss", usage_file("data.h5")}, {"data.h5"}},
  };
}

std::vector<Mistake> mistakes_in_options() {
  const auto good = usage_file("good.pt");
  const auto data = usage_file("data.h5");
  const auto with = [](const Words& more) { return good_job() + more; };
  return {
      {"Parameters_PatternWithoutMatch", with({"--parameters", "conv*.weight"}), {"conv*.weight", "0.weight"}},
      {"Parameters_SecondPatternWithoutMatch", with({"--parameters", "*.bias", "conv*.weight"}), {"conv*.weight"}},
      {"Output_FolderThatDoesNotExist", {"--model", good, "--data", data, "--output", "no/such/h.h5"}, {"no/such"}},
      {"Options_UnknownShortOne", with({"-x"}), {"-x"}},
      {"Options_StrayWord", with({"stray"}), {"--help"}},
      {"Options_AbbreviationsAreNotGuessed", with({"--over"}), {"--over"}},
      {"Options_GivenTwice", with({"--seed", "1", "--seed", "2"}), {"seed"}},
      {"Options_WithoutValue", with({"--dtype"}), {"dtype"}},
      {"Options_ModelWithoutData", {"--model", good, "--output", "result.h5"}, {"--model", "--data"}},
      {"Options_DataWithoutModel", {"--data", data, "--output", "result.h5"}, {"--model", "--data"}},
      {"Configuration_UnknownKey", {"--config", made_file("unknown_key.conf")}, {"unknown_key.conf", "learning-rate"}},
      {"Configuration_BadValue", {"--config", made_file("bad_value.conf")}, {"dtype", "float8"}},
  };
}

std::vector<Mistake> bad_values() {
  std::vector<Mistake> mistakes;
  for (const auto& [option, value] : std::vector<std::pair<std::string, std::string>>{{"--reduction", "median"},
                                                                                      {"--mode", "training"},
                                                                                      {"--batch-size", "0"},
                                                                                      {"--batch-size", "-3"},
                                                                                      {"--batch-size", "4.5"},
                                                                                      {"--dtype", "float16"},
                                                                                      {"--storage", "double"},
                                                                                      {"--threads", "none"},
                                                                                      {"--memory", "much"},
                                                                                      {"--memory", "-1G"},
                                                                                      {"--check", "-1"},
                                                                                      {"--verify", "some"},
                                                                                      {"--progress", "loud"},
                                                                                      {"--seed", "x"},
                                                                                      {"--method", "cols"},
                                                                                      {"--device", "tpu"},
                                                                                      {"--config", "nowhere.conf"}}) {
    auto name = "BadValue_" + std::to_string(mistakes.size()) + option;
    std::replace(name.begin(), name.end(), '-', '_');
    mistakes.push_back({name,
                        {"--model", usage_file("good.pt"), "--data", usage_file("data.h5"), option + "=" + value},
                        {option, value}});
  }
  return mistakes;
}

std::vector<Mistake> mistakes() {
  std::vector<Mistake> all;
  for (const auto& some : {mistakes_in_models(), mistakes_in_data_and_losses(), mistakes_in_options(), bad_values()}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

class Mistakes : public testing::TestWithParam<Mistake> {
 protected:
  static void SetUpTestSuite() {
    make_files();
    batch.emplace();
    for (const auto& mistake : mistakes()) {
      batch->add(mistake.name, 2, mistake.arguments + (mistake.over_old_file ? Words{"--overwrite"} : Words{}));
      if (mistake.over_old_file) std::ofstream(batch->folder(mistake.name) / "result.h5") << "old";
    }
    batch->run();
  }
  static void TearDownTestSuite() { batch.reset(); }
  static inline std::optional<Batch> batch;
};

TEST_P(Mistakes, AreToldInOneMessageAndNothingIsWritten) {
  const auto& mistake = GetParam();
  expect_one_message(batch->finished(mistake.name), mistake.mentioned);
  const auto folder = batch->folder(mistake.name);
  if (mistake.over_old_file) {
    EXPECT_EQ(content_of(folder / "result.h5"), "old");
    std::filesystem::remove(folder / "result.h5");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder)) << "files were left";
}

INSTANTIATE_TEST_SUITE_P(Of, Mistakes, testing::ValuesIn(mistakes()), [](const auto& test) { return test.param.name; });

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

 private:
  Folder inputs_;
};

TEST_F(Configuration, GivesTheSameOptions) {
  const Folder folder;
  const auto config =
      write(good_configuration() + "# a comment\noutput = from_config.h5\nreduction = sum\nparameters = *.weight\n");
  const auto finished = run_program(2, {"--config", config}, folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  const StoredFile file(folder / "from_config.h5");
  EXPECT_EQ(file.attribute_text("/", "reduction"), "sum");
  EXPECT_EQ(file.strings("/parameters/name"), (Words{"0.weight", "2.weight"}));
}

TEST_F(Configuration, CommandLineWins) {
  const Folder folder;
  const auto config = write(good_configuration() +
                            "output = from_config.h5\nreduction = sum\ndtype = float64\nparameters = *.weight\n");
  const auto finished = run_program(
      2, {"--config", config, "--output", "result.h5", "--reduction", "mean", "--parameters", "*.bias"}, folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_FALSE(std::filesystem::exists(folder / "from_config.h5"));
  const StoredFile file(folder / "result.h5");
  EXPECT_EQ(file.attribute_text("/", "reduction"), "mean");
  EXPECT_EQ(file.attribute_text("/", "dtype"), "float64");
  EXPECT_EQ(file.strings("/parameters/name"), (Words{"0.bias", "2.bias"}));
}

// --- help
// -------------------------------------------------------------------------------------------------------------

const Words options_of_the_contract{
    "accumulate", "model",           "data",    "loss",       "loss-option", "l2",      "whole",   "reduction",
    "mode",       "batch-size",      "dtype",   "parameters", "seed",        "matrix",  "method",  "device",
    "rows",       "threads",         "memory",  "time-limit", "plan",        "output",  "storage", "resume",
    "overwrite",  "check",           "verify",  "progress",   "config",      "version", "help",    "blocks",
    "diagonal",   "with-respect-to", "verbose", "values",     "keep-casts"};

TEST(Help, ListsEveryOptionOfTheContractOnce) {
  const Folder folder;
  const auto finished = run_program(2, {"--help"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0);
  EXPECT_EQ(finished.errors, "");
  const std::regex option(R"(^ {2,6}(?:-\w, )?--([a-z][a-z0-9-]*).*)");
  std::multiset<std::string> listed;
  for (const auto& line : lines_of(finished.output)) {
    std::smatch match;
    if (std::regex_match(line, match, option)) listed.insert(match[1]);
  }
  EXPECT_EQ(listed, std::multiset<std::string>(options_of_the_contract.begin(), options_of_the_contract.end()))
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

TEST(Version, TellsWhereLibrariesAndOutputAre) {
  const Folder folder;
  const auto finished = run_program(2, {"--version", "--verbose", "--output", "/proc/there.h5"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0);
  EXPECT_EQ(finished.errors, "");
  for (const auto* name : {"LibTorch", "MPI", "HDF5"}) {
    const std::regex line(std::string("  ") + name + " +(/[^,]*).*");
    bool found = false;
    for (const auto& told : lines_of(finished.output)) {
      std::smatch path;
      found = found || (std::regex_match(told, path, line) && std::filesystem::exists(path[1].str()));
    }
    EXPECT_TRUE(found) << name << '\n' << finished.output;
  }
  EXPECT_NE(finished.output.find("  output            proc "), std::string::npos) << finished.output;
  EXPECT_TRUE(is_empty(folder));
}

}  // namespace
}  // namespace end_to_end
