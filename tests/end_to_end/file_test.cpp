// The output file: the contract's layout, checksums, and bytes that depend on nothing but the job.

#include <gtest/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <ostream>
#include <regex>

#include "program.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

Words job(const std::string& name, const std::filesystem::path& output, const std::string& data = "data.h5") {
  const auto folder = models() / name;
  return {"--model", folder / "model.pt", "--data", folder / data, "--output", output, "--threads", "1"};
}

// One run of a job, its file kept until the end of the test.
class Result {
 public:
  Result(int ranks, const std::string& name, const Words& options = {})
      : Result(ranks, job(name, "result.h5") + options) {}
  Result(int ranks, const Words& arguments) : finished(run_program(ranks, arguments, folder_.path())) {
    EXPECT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  }
  std::filesystem::path path() const { return folder_ / "result.h5"; }
  StoredFile file() const { return StoredFile(path()); }
  std::string bytes() const { return finished.exit_code == 0 ? file().bytes("/hessian") : ""; }

 private:
  Folder folder_;

 public:
  const Finished finished;
};

// --- layout
// -----------------------------------------------------------------------------------------------------------

TEST(File, HoldsWhatTheContractListsInTheTypesItNames) {
  const Result result(2, "question");
  const auto file = result.file();
  const std::map<std::string, std::string> datasets{
      {"/hessian", "float32"},        {"/gradient", "float32"},        {"/parameters/value", "float32"},
      {"/parameters/name", "string"}, {"/parameters/offset", "int64"}, {"/parameters/size", "int64"},
      {"/parameters/ndim", "int64"},  {"/parameters/shape", "int64"},  {"/blocks/begin", "int64"},
      {"/blocks/end", "int64"},       {"/blocks/checksum", "uint64"}};
  for (const auto& [name, type] : datasets) EXPECT_EQ(file.type(name), type) << name;
  for (const auto* name : {"parameter_names", "parameter_shapes"})
    EXPECT_EQ(file.attribute_type("/hessian", name), "string");
  for (const auto* name : {"parameter_offsets", "parameter_sizes"})
    EXPECT_EQ(file.attribute_type("/hessian", name), "int64");
  for (const auto* name : {"format_version", "complete", "ranks", "threads"}) {
    EXPECT_EQ(file.attribute_type("/", name), "int64") << name;
  }
  for (const auto* name : {"loss_value", "wall_seconds", "symmetry_error", "row_error", "difference_error"}) {
    EXPECT_EQ(file.attribute_type("/", name), "float64") << name;
  }
  for (const auto* name : {"format", "model", "model_sha256", "data_sha256", "loss", "reduction", "mode", "dtype",
                           "device", "method", "command_line", "created", "finished", "hessian_mpi_version",
                           "libtorch_version", "mpi_version", "hdf5_version"}) {
    EXPECT_EQ(file.attribute_type("/", name), "string") << name;
  }
}

std::string sha256(const std::filesystem::path& file) {
  return run_command({"sha256sum", file}, models(), std::chrono::seconds(10)).output.substr(0, 64);
}

TEST(File, SaysWhatItWasMadeFromAndHow) {
  const auto data = models() / "question" / "data.pt";
  const Result result(3, Words{"-m", models() / "question" / "model.pt2", "-d", data, "-l", "cross_entropy", "-o",
                               "result.h5", "--reduction", "sum", "--threads", "1"});
  const auto file = result.file();
  EXPECT_EQ(file.attribute_text("/", "format"), "hessian_mpi");
  EXPECT_EQ(file.attribute_integer("/", "complete"), 1);
  EXPECT_EQ(file.attribute_text("/", "model"), models() / "question" / "model.pt2");
  EXPECT_EQ(file.attribute_text("/", "model_sha256"), sha256(models() / "question" / "model.pt2"));
  EXPECT_EQ(file.attribute_text("/", "data_sha256"), sha256(data));
  EXPECT_EQ(file.attribute_text("/", "loss"), "cross_entropy");
  EXPECT_EQ(file.attribute_text("/", "reduction"), "sum");
  EXPECT_EQ(file.attribute_text("/", "mode"), "eval");
  EXPECT_EQ(file.attribute_text("/", "dtype"), "float32");
  EXPECT_EQ(file.attribute_text("/", "device"), "cpu");
  EXPECT_EQ(file.attribute_integer("/", "ranks"), 3);
  EXPECT_EQ(file.attribute_integer("/", "threads"), 1);
  EXPECT_NE(file.attribute_text("/", "command_line").find("--reduction sum"), std::string::npos);
  EXPECT_GT(file.attribute_number("/", "wall_seconds"), 0);
  const std::regex date(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*)");
  const auto created = file.attribute_text("/", "created");
  const auto finished = file.attribute_text("/", "finished");
  EXPECT_TRUE(std::regex_match(created, date)) << created;
  EXPECT_TRUE(std::regex_match(finished, date)) << finished;
  EXPECT_LE(created, finished);
  EXPECT_EQ(file.attribute_text("/", "libtorch_version").substr(0, 2), "2.");
  EXPECT_EQ(file.attribute_text("/", "hdf5_version").substr(0, 2), "1.");
}

TEST(File, RecordsItsChecks) {
  const Result result(2, "transformer", {"--dtype", "float64"});
  const auto file = result.file();
  for (const auto* name : {"symmetry_error", "row_error"}) {
    EXPECT_GE(file.attribute_number("/", name), 0) << name;
    EXPECT_LE(file.attribute_number("/", name), 1e-10) << name;
  }
  for (const auto* name : {"gradient_error", "difference_error"}) {
    EXPECT_GE(file.attribute_number("/", name), 0) << name;
    EXPECT_LE(file.attribute_number("/", name), 1e-5) << name;
  }
  for (const std::string name : {"symmetry", "row", "gradient", "difference"}) {
    EXPECT_GT(file.attribute_number("/", name + "_tolerance"), file.attribute_number("/", name + "_error")) << name;
    EXPECT_EQ(file.attribute_text("/", name + "_check"), "passed") << name;
  }
}

Words job_on_usage_files(const std::string& model) {
  return {"--model",   models() / "usage" / model,
          "--data",    models() / "usage" / "data.h5",
          "--output",  "result.h5",
          "--threads", "1"};
}

TEST(File, IsNotCompleteWhereACheckFails) {
  for (const auto* model : {"cut_off.pt", "cut_off.pt2"}) {
    const Folder folder;
    const auto finished = run_program(3, job_on_usage_files(model), folder.path());
    EXPECT_EQ(finished.exit_code, 1);
    EXPECT_NE(finished.errors.find("H v is not the change of the gradient"), std::string::npos) << finished.errors;
    EXPECT_NE(finished.errors.find("complete = 0"), std::string::npos) << finished.errors;
    const StoredFile file(folder / "result.h5");
    EXPECT_EQ(file.attribute_integer("/", "complete"), 0);
    EXPECT_EQ(file.attribute_text("/", "difference_check"), "failed");
    EXPECT_EQ(file.attribute_text("/", "symmetry_check"), "passed") << "wrong, and symmetric all the same";
    EXPECT_GT(file.attribute_number("/", "difference_error"), file.attribute_number("/", "difference_tolerance"));
  }
}

TEST(File, OfAFailingJobIsCompleteWithoutChecks) {
  const Result result(2, job_on_usage_files("cut_off.pt") + Words{"--check", "0"});
  EXPECT_EQ(result.file().attribute_integer("/", "complete"), 1);
  EXPECT_EQ(result.file().attribute_text("/", "difference_check"), "not made");
}

TEST(File, AKinkIsNoFailure) {
  for (const auto* dtype : {"float32", "float64"}) {
    const Result result(2, job_on_usage_files("at_kink.pt") + Words{"--dtype", dtype});
    EXPECT_EQ(result.file().attribute_integer("/", "complete"), 1);
    EXPECT_EQ(result.file().attribute_text("/", "difference_check"), "kinks");
    EXPECT_NE(result.finished.errors.find("kink"), std::string::npos) << result.finished.errors;
  }
}

TEST(File, RoundingInsideANetworkIsNoFailure) {
  for (const auto* model : {"casts_inside.pt", "casts_inside.pt2"}) {
    const Result result(2, job_on_usage_files(model));
    EXPECT_EQ(result.file().attribute_integer("/", "complete"), 1);
    EXPECT_EQ(result.file().attribute_text("/", "difference_check"), "passed");
    EXPECT_EQ(result.finished.errors.find("kink"), std::string::npos) << result.finished.errors;
  }
}

// Nor do casts that are kept hide a part that is cut off.
TEST(File, CastsThatAreKeptAreKnownToTheChecks) {
  for (const std::string dtype : {"float16", "bfloat16"}) {
    const Result right(2, job_on_usage_files(dtype + "_inside.pt") + Words{"--keep-casts"});
    EXPECT_EQ(right.file().attribute_integer("/", "complete"), 1) << right.finished.errors;
    EXPECT_EQ(right.file().attribute_text("/", "difference_check"), "passed") << dtype;
    EXPECT_EQ(right.finished.errors.find("kink"), std::string::npos) << right.finished.errors;
    const Folder folder;
    const auto wrong =
        run_program(2, job_on_usage_files(dtype + "_inside_cut_off.pt") + Words{"--keep-casts"}, folder.path());
    EXPECT_EQ(wrong.exit_code, 1) << dtype;
    EXPECT_NE(wrong.errors.find("H v is not the change of the gradient"), std::string::npos) << wrong.errors;
  }
}

// Rounding takes most of what is left of a matrix at confident predictions, symmetry with it.
TEST(File, WhatRoundingTakesFromSmallNumbersIsNoFailure) {
  for (const auto* dtype : {"float64", "float32"}) {
    for (const auto* matrix : {"hessian", "ggn", "fisher"}) {
      const Result result(
          1, {"--model", models() / "usage" / "certain.pt", "--data", models() / "usage" / "certain_data.h5", "--dtype",
              dtype, "--matrix", matrix, "--progress", "none", "--output", "result.h5"});
      EXPECT_EQ(result.file().attribute_integer("/", "complete"), 1) << result.finished.errors;
      EXPECT_EQ(result.finished.errors, "") << dtype << ' ' << matrix;
    }
  }
}

TEST(File, MatrixIsOnePlainContiguousPiece) {
  const Result result(2, "question");
  const auto file = result.file();
  EXPECT_TRUE(file.is_contiguous("/hessian"));
  EXPECT_FALSE(file.is_compressed_or_checked("/hessian"));
  EXPECT_EQ(file.bytes("/hessian").size(), 475U * 475U * sizeof(float));
}

TEST(File, H5dumpReadsIt) {
  const std::string h5dump = H5DUMP;
  if (h5dump.empty()) GTEST_SKIP() << "h5dump is not installed";
  const Result result(2, "tied");
  const auto dump = run_command({h5dump, "-H", result.path()}, models(), std::chrono::seconds(20));
  EXPECT_EQ(dump.exit_code, 0) << dump.errors;
  EXPECT_NE(dump.output.find("DATASET \"hessian\""), std::string::npos) << dump.output;
  EXPECT_NE(dump.output.find("( 50, 50 ) / ( 50, 50 )"), std::string::npos) << dump.output;
}

TEST(File, IsHessianH5InTheFolderOfTheRunUnlessNamed) {
  const Folder folder;
  const auto model = models() / "tied";
  const auto finished = run_program(1, {"--model", model / "model.pt", "--data", model / "data.h5"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_EQ(StoredFile(folder / "hessian.h5").shape("/hessian"), (std::vector<std::uint64_t>{50, 50}));
}

// --- storage
// ----------------------------------------------------------------------------------------------------------

class Storage : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(Storage, IsTheDtypeOnDiskAndNoOther) {
  const auto& [dtype, storage] = GetParam();
  const Result result(2, "mlp_mse", {"--loss", "mse", "--dtype", dtype, "--storage", storage});
  const auto file = result.file();
  EXPECT_EQ(file.type("/hessian"), storage);
  EXPECT_EQ(file.type("/gradient"), dtype);
  EXPECT_EQ(file.bytes("/hessian").size(), 77U * 77U * (storage == "float32" ? 4 : 8));
  const auto numbers = file.numbers("/hessian");
  const auto reference = StoredFile(models() / "mlp_mse" / "reference.h5").numbers("/hessian");
  ASSERT_EQ(numbers.size(), reference.size());
  for (std::size_t i = 0; i < reference.size(); ++i) ASSERT_NEAR(numbers[i], reference[i], 1e-5) << i;
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Storage,
                         testing::Values(std::pair("float64", "float32"), std::pair("float32", "float64")),
                         [](const auto& test) { return test.param.first + "_stored_in_" + test.param.second; });

// --- blocks
// -----------------------------------------------------------------------------------------------------------

void expect_blocks_with_right_checksums(const StoredFile& file) {
  const auto begin = file.integers("/blocks/begin");
  const auto end = file.integers("/blocks/end");
  const auto checksum = file.checksums("/blocks/checksum");
  const auto n = static_cast<std::int64_t>(file.shape("/hessian")[0]);
  ASSERT_FALSE(begin.empty());
  ASSERT_EQ(begin.size(), end.size());
  ASSERT_EQ(begin.size(), checksum.size());
  const auto bytes = file.bytes("/hessian");
  const auto row_bytes = bytes.size() / static_cast<std::size_t>(n);
  std::int64_t next = 0;
  for (std::size_t b = 0; b < begin.size(); ++b) {
    ASSERT_EQ(begin[b], next);
    ASSERT_GT(end[b], begin[b]);
    ASSERT_LE(end[b], n);
    const auto first = static_cast<std::size_t>(begin[b]) * row_bytes;
    const auto count = static_cast<std::size_t>(end[b] - begin[b]) * row_bytes;
    ASSERT_EQ(checksum[b], XXH3_64bits(bytes.data() + first, count)) << "block " << b;
    next = end[b];
  }
  EXPECT_EQ(next, n);
}

TEST(Blocks, TileTheMatrixAndHaveTheChecksumOfTheirBytes) {
  const Result narrow(3, "question");
  expect_blocks_with_right_checksums(narrow.file());
  const Result wide(2, "transformer", {"--dtype", "float64", "--storage", "float32"});
  expect_blocks_with_right_checksums(wide.file());
}

// --- the same bytes
// ---------------------------------------------------------------------------------------------------

struct Alike {
  std::string name;
  Words arguments;
  std::vector<int> ranks;  ///< that it is run on, beside one
  friend std::ostream& operator<<(std::ostream& out, const Alike& alike) { return out << alike.name; }
};

Words one_parameter() {
  const auto usage = models() / "usage";
  return {"--model",   usage / "one_parameter.pt",
          "--data",    usage / "one_parameter_data.h5",
          "--loss",    "mse",
          "--output",  "result.h5",
          "--threads", "1"};
}

std::vector<Alike> jobs_with_the_same_bytes() {
  return {{"InFloat64WithAttention", job("transformer", "result.h5") + Words{"--dtype", "float64"}, {3, 4}},
          {"InMinibatches", job("minibatches_mean", "result.h5") + Words{"--batch-size", "3"}, {2, 4}},
          {"OfOneRow", one_parameter(), {4}}};
}

class SameBytesOnAnyRanks : public testing::TestWithParam<Alike> {
 protected:
  static void SetUpTestSuite() {
    batch.emplace();
    for (const auto& alike : jobs_with_the_same_bytes()) {
      batch->add(name_of(alike, 1), 1, alike.arguments);
      for (const int ranks : alike.ranks) batch->add(name_of(alike, ranks), ranks, alike.arguments);
    }
    batch->run();
  }
  static void TearDownTestSuite() { batch.reset(); }
  static std::string name_of(const Alike& alike, int ranks) { return alike.name + std::to_string(ranks); }
  static std::string bytes_on(int ranks) {
    const auto name = name_of(GetParam(), ranks);
    EXPECT_EQ(batch->finished(name).exit_code, 0) << batch->finished(name).errors;
    return StoredFile(batch->folder(name) / "result.h5").bytes("/hessian");
  }

 private:
  static inline std::optional<Batch> batch;
};

TEST_P(SameBytesOnAnyRanks, AsOnOne) {
  const auto expected = bytes_on(1);
  ASSERT_FALSE(expected.empty());
  for (const int ranks : GetParam().ranks) EXPECT_TRUE(bytes_on(ranks) == expected) << ranks << " ranks";
}

INSTANTIATE_TEST_SUITE_P(Of, SameBytesOnAnyRanks, testing::ValuesIn(jobs_with_the_same_bytes()),
                         [](const auto& test) { return test.param.name; });

TEST(SameBytes, OnOneToFourAndOn64Ranks) {
  const auto expected = Result(1, "question").bytes();
  ASSERT_FALSE(expected.empty());
  for (const int ranks : {2, 3, 4, 64}) EXPECT_TRUE(Result(ranks, "question").bytes() == expected) << ranks;
}

TEST(SameBytes, WithAnyMemoryAndFromBothFormatsOfTheData) {
  Batch batch;
  batch.add("all", 1, job("question", "result.h5"));
  batch.add("h5", 1, job("two_inputs", "result.h5"));
  batch.add("pt", 2, job("two_inputs", "result.h5", "data.pt"));
  for (const auto* memory : {"1M", "256K", "1G"}) {
    batch.add(memory, 2, job("question", "result.h5") + Words{"--memory", memory});
  }
  batch.run();
  const auto bytes = [&](const std::string& name) {
    EXPECT_EQ(batch.finished(name).exit_code, 0) << batch.finished(name).errors;
    return StoredFile(batch.folder(name) / "result.h5").bytes("/hessian");
  };
  for (const auto* memory : {"1M", "256K", "1G"}) EXPECT_TRUE(bytes(memory) == bytes("all")) << memory;
  EXPECT_TRUE(bytes("pt") == bytes("h5"));
}

// --- what the user reads
// ----------------------------------------------------------------------------------------------

TEST(Summary, SaysWhereTheFileIsHowLargeItIsAndWhatWasChecked) {
  const Result result(2, "question");
  const auto all = result.finished.output + result.finished.errors;
  for (const auto* word : {"result.h5", "475", "loss", "gradient norm", "symmetry error", "memory", "seconds"}) {
    EXPECT_NE(all.find(word), std::string::npos) << word << " is not in\n" << all;
  }
}

TEST(Summary, ProgressNoneLeavesStderrEmpty) {
  const Result result(2, "tied", {"--progress", "none"});
  EXPECT_EQ(result.finished.errors, "");
}

TEST(Overwrite, ReplacesAnExistingFile) {
  const Folder folder;
  const auto arguments = job("tied", "result.h5");
  ASSERT_EQ(run_program(1, job("frozen", "result.h5"), folder.path()).exit_code, 0);
  const auto finished = run_program(2, arguments + Words{"--overwrite"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_EQ(StoredFile(folder / "result.h5").shape("/hessian"), (std::vector<std::uint64_t>{50, 50}));
}

}  // namespace
}  // namespace end_to_end
