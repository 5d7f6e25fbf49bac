// --blocks diagonal and --diagonal against the same entries of whole matrices that PyTorch has derived.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

Words job(const std::string& name, const Words& more, const std::string& dtype = "float64") {
  const auto folder = models() / name;
  return Words{"--model",   folder / "model.pt2", "--data", folder / "data.h5", "--output",
               "result.h5", "--threads",          "1",      "--dtype",          dtype} +
         options_of(name) + more;
}

// Rows and columns of one parameter, in order.
std::vector<double> block_of(const std::vector<double>& whole, std::size_t n, std::size_t offset, std::size_t size) {
  std::vector<double> block;
  for (std::size_t i = offset; i < offset + size; ++i) {
    const auto row = whole.begin() + static_cast<std::ptrdiff_t>(i * n + offset);
    block.insert(block.end(), row, row + static_cast<std::ptrdiff_t>(size));
  }
  return block;
}

// Everything beside the matrix, and the order of parameters, as in any file.
void expect_parameters_of(const StoredFile& file, const StoredFile& reference, const std::string& object) {
  const auto names = file.strings("/parameters/name");
  EXPECT_EQ(file.attribute_strings(object, "parameter_names"), names);
  EXPECT_EQ(file.attribute_integers(object, "parameter_offsets"), file.integers("/parameters/offset"));
  EXPECT_LE(relative_difference(file.numbers("/gradient"), reference.numbers("/gradient")), 1e-12);
}

void expect_blocks_of(const StoredFile& file, const std::vector<double>& whole, std::size_t n) {
  const auto names = file.strings("/parameters/name");
  const auto offsets = file.integers("/parameters/offset");
  const auto sizes = file.integers("/parameters/size");
  const double largest = std::abs(
      *std::max_element(whole.begin(), whole.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }));
  for (std::size_t p = 0; p < names.size(); ++p) {
    const auto size = static_cast<std::uint64_t>(sizes[p]);
    const auto dataset = "/hessian/" + names[p];
    ASSERT_EQ(file.shape(dataset), (std::vector<std::uint64_t>{size, size}));
    EXPECT_TRUE(file.is_contiguous(dataset));
    const auto expected = block_of(whole, n, static_cast<std::size_t>(offsets[p]), size);
    const auto found = file.numbers(dataset);
    double worst = 0;
    for (std::size_t k = 0; k < found.size(); ++k) worst = std::max(worst, std::abs(found[k] - expected[k]));
    EXPECT_LE(worst, 1e-10 * largest) << names[p];
  }
}

void expect_diagonal_of(const StoredFile& file, const std::vector<double>& whole, std::size_t n) {
  ASSERT_EQ(file.shape("/diagonal"), std::vector<std::uint64_t>{n});
  std::vector<double> expected;
  for (std::size_t i = 0; i < n; ++i) expected.push_back(whole[i * n + i]);
  EXPECT_LE(relative_difference(file.numbers("/diagonal"), expected), 1e-10);
}

void expect_like_pytorch(const std::filesystem::path& result, const std::string& name, const std::string& matrix,
                         bool blocks) {
  const StoredFile file(result);
  const StoredFile reference(models() / name / "reference.h5");
  const auto whole = reference.numbers("/" + matrix);
  const auto n = file.shape("/gradient").front();
  for (const auto* check : {"row_check", "gradient_check", "difference_check"}) {
    EXPECT_EQ(file.attribute_text("/", check), "passed") << check;
  }
  if (blocks) {
    EXPECT_EQ(file.attribute_text("/", "entries"), "diagonal_blocks");
    EXPECT_EQ(file.attribute_text("/", "symmetry_check"), "passed");
    expect_parameters_of(file, reference, "/hessian");
    expect_blocks_of(file, whole, n);
  } else {
    EXPECT_EQ(file.attribute_text("/", "entries"), "diagonal");
    expect_parameters_of(file, reference, "/diagonal");
    expect_diagonal_of(file, whole, n);
  }
}

// A matrix of the reference, on one to three ranks and by both methods in turn.
void expect_like_pytorch(const Words& names, const std::string& matrix) {
  Batch batch;
  int turn = 0;
  for (const auto& name : names) {
    for (const auto& entries : {Words{"--blocks", "diagonal"}, Words{"--diagonal"}}) {
      ++turn;
      const auto words = entries + Words{"--matrix", matrix, "--method", turn % 4 == 3 ? "rows" : "layers"};
      batch.add(name + entries.front(), turn % 3 + 1, job(name, words));
    }
  }
  batch.run();
  for (const auto& name : names) {
    for (const std::string entries : {"--blocks", "--diagonal"}) {
      SCOPED_TRACE(name + entries);
      const auto& finished = batch.finished(name + entries);
      ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
      expect_like_pytorch(batch.folder(name + entries) / "result.h5", name, matrix, entries == "--blocks");
    }
  }
}

TEST(Entries, AreThoseOfTheWholeHessian) {
  expect_like_pytorch({"question", "mlp_mse", "transformer", "tied", "embedding", "minibatches_weighted",
                       "several_heads", "l2_of_a_part"},
                      "hessian");
}

TEST(Entries, AreThoseOfTheWholeGaussNewtonAndFisherMatrix) {
  expect_like_pytorch({"question", "transformer", "l2_of_a_part"}, "ggn");
  expect_like_pytorch({"mlp_mse"}, "fisher");
}

// All bytes of the matrix.
std::string bytes_of(const StoredFile& file, bool blocks) {
  if (!blocks) return file.bytes("/diagonal");
  std::string all;
  for (const auto& name : file.strings("/parameters/name")) all += file.bytes("/hessian/" + name);
  return all;
}

TEST(Entries, HaveTheSameBytesOnAnyRanks) {
  for (const auto& entries : {Words{"--blocks", "diagonal"}, Words{"--diagonal"}}) {
    std::string on_one;
    for (const int ranks : {1, 2, 3, 5}) {
      const Folder folder;
      const auto finished = run_program(ranks, job("question", entries, "float32"), folder.path());
      ASSERT_EQ(finished.exit_code, 0) << finished.errors;
      const auto bytes = bytes_of(StoredFile(folder / "result.h5"), entries.size() == 2);
      if (on_one.empty()) on_one = bytes;
      EXPECT_FALSE(bytes.empty());
      EXPECT_TRUE(bytes == on_one) << ranks << " ranks";
    }
  }
}

TEST(Entries, ThatWereDamagedAreFoundAndMadeAgain) {
  const Folder folder;
  const auto words = job("question", {"--blocks", "diagonal"});
  ASSERT_EQ(run_program(2, words, folder.path()).exit_code, 0);
  std::string before;
  {
    const StoredFile file(folder / "result.h5");
    before = bytes_of(file, true);
    std::fstream raw(folder / "result.h5", std::ios::in | std::ios::out | std::ios::binary);
    raw.seekp(static_cast<std::streamoff>(file.offset("/hessian/f2.weight") + 1000));
    raw << "damaged";
  }
  EXPECT_FALSE(bytes_of(StoredFile(folder / "result.h5"), true) == before);
  const auto finished = run_program(3, words + Words{"--resume", "--verify", "all"}, folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.errors.find("are not what was written"), std::string::npos) << finished.errors;
  const StoredFile file(folder / "result.h5");
  EXPECT_TRUE(bytes_of(file, true) == before);
  EXPECT_EQ(file.attribute_integer("/", "complete"), 1);
}

TEST(Entries, OfAnotherKindAreAnotherJob) {
  const Folder folder;
  ASSERT_EQ(run_program(2, job("mlp_mse", {"--diagonal"}), folder.path()).exit_code, 0);
  const auto finished = run_program(2, job("mlp_mse", {"--blocks", "diagonal", "--resume"}), folder.path());
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_NE(finished.errors.find("entries: 'diagonal' in the file, 'diagonal_blocks' now"), std::string::npos)
      << finished.errors;
}

TEST(Entries, AreNotCutIntoParts) {
  const Folder folder;
  for (const auto& entries : {Words{"--blocks", "diagonal"}, Words{"--diagonal"}}) {
    const auto finished = run_program(2, job("mlp_mse", entries + Words{"--rows", "0/2"}), folder.path());
    EXPECT_EQ(finished.exit_code, 2);
    EXPECT_NE(finished.errors.find("--rows"), std::string::npos) << finished.errors;
  }
  const auto both = run_program(1, job("mlp_mse", {"--diagonal", "--blocks", "diagonal"}), folder.path());
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Entries, ArePlannedToo) {
  const Folder folder;
  const auto finished = run_program(2, job("question", {"--blocks", "diagonal", "--plan"}), folder.path());
  EXPECT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.output.find("4 diagonal blocks, the largest"), std::string::npos) << finished.output;
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace end_to_end
