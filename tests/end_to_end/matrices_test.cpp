// --matrix ggn and fisher against matrices that Python has multiplied together from Jacobians.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

Words job(const std::string& name, const std::string& matrix, const std::string& model) {
  const auto folder = models() / name;
  return Words{"--model", folder / model, "--data", folder / "data.h5", "--output", "result.h5", "--threads",
               "1",       "--matrix",     matrix,   "--dtype",          "float64"} +
         options_of(name);
}

// Of a finished job's matrix to the reference.
double difference_of(const Finished& finished, const std::filesystem::path& result, const std::string& name,
                     const std::string& matrix) {
  EXPECT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  if (finished.exit_code != 0) return HUGE_VAL;
  const StoredFile file(result);
  EXPECT_EQ(file.attribute_text("/", "matrix"), matrix);
  for (const auto* check : {"symmetry_check", "row_check", "gradient_check", "difference_check"}) {
    EXPECT_EQ(file.attribute_text("/", check), "passed") << check;
  }
  return relative_difference(file.numbers("/hessian"),
                             StoredFile(models() / name / "reference.h5").numbers("/" + matrix));
}

double difference_alone(int ranks, const Words& words, const std::string& name, const std::string& matrix) {
  const Folder folder;
  return difference_of(run_program(ranks, words, folder.path()), folder / "result.h5", name, matrix);
}

// By both methods, on one to three ranks and in both formats in turn.
void expect_like_pytorch(const Words& names, const std::string& matrix) {
  Batch batch;
  int ranks = 0;
  for (const auto& name : names) {
    for (const std::string method : {"auto", "rows"}) {
      ranks = ranks % 3 + 1;
      batch.add(name + "_" + method, ranks,
                job(name, matrix, ranks == 2 ? "model.pt" : "model.pt2") + Words{"--method", method});
    }
  }
  batch.run();
  for (const auto& name : names) {
    for (const std::string method : {"_auto", "_rows"}) {
      SCOPED_TRACE(name + method);
      EXPECT_LE(difference_of(batch.finished(name + method), batch.folder(name + method) / "result.h5", name, matrix),
                1e-10);
    }
  }
}

TEST(Matrices, GaussNewtonAgreesWithPyTorch) {
  expect_like_pytorch({"question", "mlp_mse", "many_samples", "transformer", "batch_norm_train", "tied", "embedding",
                       "two_inputs", "several_heads", "scripted_loss", "minibatches_weighted", "l2_of_a_part",
                       "by_inputs_of_samples", "by_some_inputs"},
                      "ggn");
}

TEST(Matrices, FisherAgreesWithPyTorch) {
  expect_like_pytorch({"question", "mlp_mse", "many_samples", "transformer", "minibatches_sum", "by_inputs_of_samples"},
                      "fisher");
}

TEST(Matrices, InBatchesAreThoseOfTheWholeDataSet) {
  for (const std::string matrix : {"ggn", "fisher"}) {
    const auto words = job("mlp_mse", matrix, "model.pt2") + Words{"--batch-size", "3"};
    EXPECT_LE(difference_alone(2, words, "mlp_mse", matrix), 1e-10) << matrix;
  }
}

TEST(Matrices, HaveTheirOwnDiagonals) {
  for (const std::string matrix : {"ggn", "fisher"}) {
    const Folder folder;
    const auto finished = run_program(2, job("transformer", matrix, "model.pt2") + Words{"--diagonal"}, folder.path());
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
    const auto whole = StoredFile(models() / "transformer" / "reference.h5").numbers("/" + matrix);
    const auto diagonal = StoredFile(folder / "result.h5").numbers("/diagonal");
    ASSERT_EQ(diagonal.size() * diagonal.size(), whole.size());
    std::vector<double> expected;
    for (std::size_t i = 0; i < diagonal.size(); ++i) expected.push_back(whole[i * (diagonal.size() + 1)]);
    EXPECT_LE(relative_difference(diagonal, expected), 1e-10) << matrix;
  }
}

std::string bytes_of_job(int ranks, const Words& words) {
  const Folder folder;
  const auto finished = run_program(ranks, words, folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  return finished.exit_code == 0 ? StoredFile(folder / "result.h5").bytes("/hessian") : "";
}

TEST(Matrices, HaveTheSameBytesOnAnyRanks) {
  const auto words = job("question", "ggn", "model.pt2") + Words{"--storage", "float32"};
  const auto on_one = bytes_of_job(1, words);
  EXPECT_FALSE(on_one.empty());
  EXPECT_TRUE(bytes_of_job(3, words) == on_one);
}

// What is a column of later rows is made once: on any ranks, and in a part whose file has none of the earlier rows.
TEST(Matrices, OfManyOutputsAreSymmetricToTheLastBit) {
  const auto words = job("many_samples", "fisher", "model.pt2");
  const auto whole = bytes_of_job(1, words);
  ASSERT_FALSE(whole.empty());
  EXPECT_TRUE(bytes_of_job(3, words) == whole);
  std::vector<double> numbers(whole.size() / sizeof(double));
  std::memcpy(numbers.data(), whole.data(), whole.size());
  const auto n = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(numbers.size()))));
  for (std::size_t i = n / 2; i < n; ++i) {
    for (std::size_t j = 0; j < n / 4 - 1; ++j) ASSERT_EQ(numbers[i * n + j], numbers[j * n + i]) << i << ", " << j;
  }
  const auto bytes_of_row = n * sizeof(double);
  EXPECT_TRUE(bytes_of_job(2, words + Words{"--rows", "30:50"}) == whole.substr(30 * bytes_of_row, 20 * bytes_of_row));
}

TEST(Matrices, OfAnotherKindAreAnotherJob) {
  const Folder folder;
  const auto hessian = job("mlp_mse", "hessian", "model.pt2");
  ASSERT_EQ(run_program(2, hessian, folder.path()).exit_code, 0);
  const auto finished = run_program(2, job("mlp_mse", "ggn", "model.pt2") + Words{"--resume"}, folder.path());
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_NE(finished.errors.find("matrix: 'hessian' in the file, 'ggn' now"), std::string::npos) << finished.errors;
}

TEST(Matrices, ByInputsInPiecesAreThoseOfTheWhole) {
  const auto words = job("by_some_inputs", "hessian", "model.pt2");
  const StoredFile reference(models() / "by_some_inputs" / "reference.h5");
  const auto whole = reference.numbers("/hessian");
  const Folder folder;
  ASSERT_EQ(run_program(2, words + Words{"--diagonal"}, folder.path()).exit_code, 0);
  const auto diagonal = StoredFile(folder / "result.h5").numbers("/diagonal");
  ASSERT_EQ(diagonal.size() * diagonal.size(), whole.size());
  std::vector<double> expected;
  for (std::size_t i = 0; i < diagonal.size(); ++i) expected.push_back(whole[i * (diagonal.size() + 1)]);
  EXPECT_LE(relative_difference(diagonal, expected), 1e-10);

  auto by_parameters = words + Words{"--diagonal", "--resume"};
  *(std::find(by_parameters.begin(), by_parameters.end(), "--with-respect-to") + 1) = "parameters";
  const auto other = run_program(1, by_parameters, folder.path());
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.errors.find("with_respect_to: 'inputs:value,Shift' in the file, 'parameters' now"), std::string::npos)
      << other.errors;
  EXPECT_EQ(run_program(1, words + Words{"--diagonal", "--resume"}, folder.path()).exit_code, 0);
}

TEST(Matrices, WithoutOutputsOrWithAnL2TermAreRefused) {
  const Folder folder;
  const auto of_model = run_program(2, job("model_computes_loss", "ggn", "model.pt2"), folder.path());
  EXPECT_EQ(of_model.exit_code, 2);
  EXPECT_NE(of_model.errors.find("--loss output"), std::string::npos) << of_model.errors;
  const auto with_l2 = run_program(2, job("mlp_mse", "fisher", "model.pt2") + Words{"--l2", "0.1"}, folder.path());
  EXPECT_EQ(with_l2.exit_code, 2);
  EXPECT_NE(with_l2.errors.find("--l2"), std::string::npos) << with_l2.errors;
}

TEST(Matrices, ArePlannedToo) {
  const Folder folder;
  const auto finished = run_program(2, job("question", "ggn", "model.pt2") + Words{"--plan"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.output.find("475 rows from 3 backward passes, each for all samples at once"), std::string::npos)
      << finished.output;
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace end_to_end
