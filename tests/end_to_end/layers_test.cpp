// The program with --method layers, on networks of tests/models/random_architectures.py: against --method rows, against
// PyTorch, and against itself on other numbers of ranks. All of these networks are in tests/layer_factors_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

constexpr int networks = 12;
constexpr int most_ranks = 4;

struct Network {
  std::string line;  ///< of the file `cases`: its name, then what it is about
  Words arguments;
  std::filesystem::path reference;
};

// By its line of the file.
Network network_of(const std::string& line) {
  const auto folder = models() / "random";
  const auto own = folder / line.substr(0, line.find(' '));
  return {line, Words{"--threads", "1", "--check", "2"} + options_in(own), own / "reference.h5"};
}

// Spread over the file, whose lines go from theme to theme.
Network network(int number) {
  const auto lines = lines_of(content_of(models() / "random" / "cases"));
  return network_of(lines.at(static_cast<std::size_t>(number) * lines.size() / networks));
}

// A job on one of the networks.
struct Way {
  std::string method;
  std::string dtype;
  int ranks;
};

std::string text_of(int network, const Way& way) {
  return std::to_string(network) + "_" + way.method + "_" + way.dtype + "_on_" + std::to_string(way.ranks);
}

// By rows, by layers on two numbers of ranks, and both in float32.
std::vector<Way> ways_for(int number) {
  const int ranks = 1 + number % most_ranks;
  const int others = 1 + (number + 2) % most_ranks;
  return {{"rows", "float64", 1},
          {"layers", "float64", ranks},
          {"layers", "float64", others},
          {"rows", "float32", 1},
          {"layers", "float32", ranks}};
}

class Layers : public testing::TestWithParam<int> {
 protected:
  static void SetUpTestSuite() {
    batch.emplace();
    for (int number = 0; number < networks; ++number) {
      for (const auto& way : ways_for(number)) {
        batch->add(
            text_of(number, way), way.ranks,
            network(number).arguments + Words{"--method", way.method, "--dtype", way.dtype, "--output", "result.h5"});
      }
    }
    batch->run();
  }
  static void TearDownTestSuite() { batch.reset(); }

  // Its file, which says how it was made.
  static std::filesystem::path hessian_of(int number, const Way& way) {
    const auto name = text_of(number, way);
    const auto& finished = batch->finished(name);
    EXPECT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
    const auto output = batch->folder(name) / "result.h5";
    if (finished.exit_code == 0) {
      const StoredFile file(output);
      EXPECT_EQ(file.attribute_text("/", "method"), way.method);
      EXPECT_EQ(file.attribute_integer("/", "ranks"), way.ranks);
    }
    return output;
  }

 private:
  static inline std::optional<Batch> batch;
};

TEST_P(Layers, AgreeWithRowsWithPyTorchAndOnAllNumbersOfRanks) {
  const auto chosen = network(GetParam());
  SCOPED_TRACE(chosen.line);
  const auto ways = ways_for(GetParam());
  const auto rows = hessian_of(GetParam(), ways[0]);
  const auto layers = hessian_of(GetParam(), ways[1]);
  const auto elsewhere = hessian_of(GetParam(), ways[2]);
  const auto coarse_rows = hessian_of(GetParam(), ways[3]);
  const auto coarse_layers = hessian_of(GetParam(), ways[4]);
  if (HasFailure()) return;

  EXPECT_LE(relative_difference(layers, chosen.reference), 1e-10);
  EXPECT_LE(relative_difference(layers, rows), 1e-10);
  EXPECT_LE(relative_difference(coarse_layers, coarse_rows), 1e-5);
  // The network's own rounding, which rows in float32 have as well.
  EXPECT_LE(relative_difference(coarse_layers, rows), 1e-4);
  EXPECT_TRUE(StoredFile(layers).bytes("/hessian") == StoredFile(elsewhere).bytes("/hessian"))
      << "on " << ways[1].ranks << " and on " << ways[2].ranks << " ranks";
}

// The network of the example, smaller: its convolution is made row by row, its linear layer is factored.
Words question(const std::string& method, const std::string& output, const Words& options = {}) {
  const auto folder = models() / "question";
  return Words{"--model", folder / "model.pt", "--data", folder / "data.h5", "--method",
               method,    "--output",          output,   "--threads",        "1"} +
         options;
}

void damage(const std::filesystem::path& path, const std::vector<std::uint64_t>& rows) {
  const auto row_bytes = StoredFile(path).bytes("/hessian").size() / StoredFile(path).shape("/hessian")[0];
  const auto offset = StoredFile(path).offset("/hessian");
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  for (const auto row : rows) {
    file.seekp(static_cast<std::streamoff>(offset + row * row_bytes));
    file.write("damage!!", 8);
  }
}

// A network and a way, whose rows are made in several steps.
struct Steps {
  std::string network;
  std::string method;
  friend std::ostream& operator<<(std::ostream& out, const Steps& steps) {
    return out << steps.network << "_" << steps.method;
  }
};

// Tokens: a first stage for what attention sees, whose rows are columns of a second one. With an L2 term, which each
// row of the file has once, whichever step has made it.
Words tokens(const std::string& method, const std::string& output, const Words& options) {
  const auto lines = lines_of(content_of(models() / "random" / "cases"));
  const auto found = std::find_if(lines.begin(), lines.end(), [](const std::string& line) {
    return line.find(" embedding ") != std::string::npos && line.find(" encoder_layer ") != std::string::npos;
  });
  EXPECT_NE(found, lines.end());
  return network_of(*found).arguments + Words{"--method", method, "--output", output, "--l2", "0.125"} + options;
}

class InSteps : public testing::TestWithParam<Steps> {
 protected:
  static Words arguments(const std::string& output, const Words& options = {}) {
    const auto& [network, method] = GetParam();
    return network == "question" ? question(method, output, options) : tokens(method, output, options);
  }
};

TEST_P(InSteps, GoOnToTheSameBytesOnAnyRanksWithAnyMemory) {
  const Folder folder;
  ASSERT_EQ(run_program(2, arguments("whole.h5"), folder.path()).exit_code, 0);
  const auto whole = StoredFile(folder / "whole.h5").bytes("/hessian");
  const auto n = StoredFile(folder / "whole.h5").shape("/hessian")[0];
  const auto small = run_program(3, arguments("small.h5", {"--memory", "1M"}), folder.path());
  ASSERT_EQ(small.exit_code, 0) << small.errors;
  const bool kept = small.errors.find("made again for each range of rows") == std::string::npos;
  EXPECT_EQ(kept, GetParam().method == "auto") << small.errors;
  EXPECT_TRUE(StoredFile(folder / "small.h5").bytes("/hessian") == whole);
  std::vector<std::uint64_t> spread;
  for (std::uint64_t row = 0; row < n; row += n / 7) spread.push_back(row);
  spread.push_back(n - 1);
  for (const auto& rows : {spread, {n / 2, n / 2 + 1, n / 2 + 9}}) {
    damage(folder / "small.h5", rows);
    const auto mended = run_program(4, arguments("small.h5", {"--resume", "--verify", "all"}), folder.path());
    ASSERT_EQ(mended.exit_code, 0) << mended.errors;
    EXPECT_NE(mended.errors.find("computed again"), std::string::npos) << mended.errors;
    EXPECT_TRUE(StoredFile(folder / "small.h5").bytes("/hessian") == whole) << "row " << rows.front() << " and others";
  }
}

TEST_P(InSteps, AreMadeInPartsToTheSameBytes) {
  const Folder folder;
  ASSERT_EQ(run_program(1, arguments("whole.h5"), folder.path()).exit_code, 0);
  const auto whole = StoredFile(folder / "whole.h5").bytes("/hessian");
  const auto n = StoredFile(folder / "whole.h5").shape("/hessian")[0];
  const auto row_bytes = whole.size() / n;
  for (const auto& [begin, end] :
       {std::pair<std::size_t, std::size_t>{0, n / 16}, {n / 16, n / 16 + 1}, {n / 13, n / 2}, {n - 5, n}}) {
    const auto name = std::to_string(begin) + ".h5";
    const auto rows = std::to_string(begin) + ":" + std::to_string(end);
    const auto finished = run_program(2, arguments(name, {"--rows", rows}), folder.path());
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
    EXPECT_TRUE(StoredFile(folder / name).bytes("/hessian") ==
                whole.substr(begin * row_bytes, (end - begin) * row_bytes))
        << rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, InSteps,
                         testing::Values(Steps{"question", "layers"}, Steps{"question", "auto"},
                                         Steps{"tokens", "layers"}));

TEST(LayersOfTokens, AreMadeInTwoStages) {
  const Folder folder;
  const auto finished = run_program(2, tokens("layers", "result.h5", {}), folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.output.find("each for all samples at once; "), std::string::npos) << finished.output;
  EXPECT_NE(finished.output.find("each for all positions of all samples at once; "), std::string::npos)
      << finished.output;
}

TEST(LayersOfTheQuestion, SayWhichWayEachParameterTook) {
  const Folder folder;
  const auto finished = run_program(1, question("auto", "result.h5"), folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.output.find("backward passes"), std::string::npos) << finished.output;
  EXPECT_NE(finished.output.find("row by row takes fewer operations"), std::string::npos) << finished.output;
  const auto methods = StoredFile(folder / "result.h5").attribute_text("/", "parameter_methods");
  EXPECT_NE(methods.find(": layers"), std::string::npos) << methods;
  EXPECT_NE(methods.find(": rows, row by row takes fewer operations"), std::string::npos) << methods;
}

TEST(LayersOfTheQuestion, HaveTheL2TermOnTheDiagonalOnceOnAnyRanks) {
  Batch batch;
  const Words methods{"rows", "auto", "layers"};
  for (const auto& method : methods) {
    batch.add(method, 1, question(method, "result.h5", {"--dtype", "float64"}));
    for (const int ranks : {1, 3}) {
      batch.add(method + std::to_string(ranks), ranks,
                question(method, "result.h5", {"--l2", "0.25", "--dtype", "float64"}));
    }
  }
  batch.run();
  const auto hessian = [&](const std::string& name) {
    EXPECT_EQ(batch.finished(name).exit_code, 0) << batch.finished(name).errors;
    return StoredFile(batch.folder(name) / "result.h5").numbers("/hessian");
  };
  for (const auto& method : methods) {
    auto expected = hessian(method);
    const auto n = static_cast<std::size_t>(std::sqrt(static_cast<double>(expected.size())));
    for (std::size_t i = 0; i < n; ++i) expected[i * n + i] += 0.25;
    for (const auto* ranks : {"1", "3"}) EXPECT_TRUE(hessian(method + ranks) == expected) << method << ranks;
  }
}

INSTANTIATE_TEST_SUITE_P(Random, Layers, testing::Range(0, networks));

}  // namespace
}  // namespace end_to_end
