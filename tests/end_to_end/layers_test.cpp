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

// The network of the example, smaller: a pass for each row of its convolution, one for each output of its linear layer.
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

const std::vector<Steps> all_steps{{"question", "layers"}, {"question", "auto"}, {"tokens", "layers"}};

// Some rows, as --rows has them.
using Range = std::pair<std::size_t, std::size_t>;

std::vector<Range> parts_of(std::size_t n) {
  return {{0, n / 16}, {n / 16, n / 16 + 1}, {n / 13, n / 2}, {n - 5, n}};
}

std::string text_of(const Range& rows) {
  return std::to_string(rows.first) + ":" + std::to_string(rows.second);
}

// Each network by its way: as a whole, on three ranks with little memory, and in parts.
class InSteps : public testing::TestWithParam<Steps> {
 protected:
  static void SetUpTestSuite() {
    whole.emplace();
    for (const auto& steps : all_steps) {
      whole->add(name_of(steps), 1, arguments(steps, {}));
      whole->add(name_of(steps) + "_small", 3, arguments(steps, {"--memory", "200K"}));
    }
    whole->run();
    parts.emplace();
    for (const auto& steps : all_steps) {
      const auto n = StoredFile(whole->folder(name_of(steps)) / "result.h5").shape("/hessian")[0];
      for (const auto& rows : parts_of(n)) {
        parts->add(name_of(steps) + text_of(rows), 2, arguments(steps, {"--rows", text_of(rows)}));
      }
    }
    parts->run();
  }
  static void TearDownTestSuite() {
    whole.reset();
    parts.reset();
  }
  static std::string name_of(const Steps& steps) { return steps.network + "_" + steps.method; }
  static Words arguments(const Steps& steps, const Words& options) {
    const auto& [network, method] = steps;
    return network == "question" ? question(method, "result.h5", options) : tokens(method, "result.h5", options);
  }
  static std::string bytes_of_whole() {
    const auto& finished = whole->finished(name_of(GetParam()));
    EXPECT_EQ(finished.exit_code, 0) << finished.errors;
    return StoredFile(whole->folder(name_of(GetParam())) / "result.h5").bytes("/hessian");
  }
  static inline std::optional<Batch> whole;
  static inline std::optional<Batch> parts;
};

TEST_P(InSteps, GoOnToTheSameBytesOnAnyRanksWithAnyMemory) {
  const auto bytes = bytes_of_whole();
  const auto& small = whole->finished(name_of(GetParam()) + "_small");
  ASSERT_EQ(small.exit_code, 0) << small.errors;
  const auto folder = whole->folder(name_of(GetParam()) + "_small");
  const auto n = StoredFile(folder / "result.h5").shape("/hessian")[0];
  EXPECT_TRUE(StoredFile(folder / "result.h5").bytes("/hessian") == bytes);
  std::vector<std::uint64_t> spread;
  for (std::uint64_t row = 0; row < n; row += n / 7) spread.push_back(row);
  spread.push_back(n - 1);
  for (const auto& rows : {spread, {n / 2, n / 2 + 1, n / 2 + 9}}) {
    damage(folder / "result.h5", rows);
    const auto mended = run_program(4, arguments(GetParam(), {"--resume", "--verify", "all"}), folder);
    ASSERT_EQ(mended.exit_code, 0) << mended.errors;
    EXPECT_NE(mended.errors.find("computed again"), std::string::npos) << mended.errors;
    EXPECT_TRUE(StoredFile(folder / "result.h5").bytes("/hessian") == bytes) << "row " << rows.front() << " and others";
  }
  // Its rows are read back as columns from where the file lies, which changes meanwhile.
  const auto again = run_program(2, arguments(GetParam(), {"--overwrite", "--memory", "200K"}), folder);
  ASSERT_EQ(again.exit_code, 0) << again.errors;
  EXPECT_TRUE(StoredFile(folder / "result.h5").bytes("/hessian") == bytes);
}

TEST_P(InSteps, AreMadeInPartsToTheSameBytes) {
  const auto bytes = bytes_of_whole();
  const auto n = StoredFile(whole->folder(name_of(GetParam())) / "result.h5").shape("/hessian")[0];
  const auto row_bytes = bytes.size() / n;
  for (const auto& rows : parts_of(n)) {
    SCOPED_TRACE(text_of(rows));
    const auto name = name_of(GetParam()) + text_of(rows);
    ASSERT_EQ(parts->finished(name).exit_code, 0) << parts->finished(name).errors;
    EXPECT_TRUE(StoredFile(parts->folder(name) / "result.h5").bytes("/hessian") ==
                bytes.substr(rows.first * row_bytes, (rows.second - rows.first) * row_bytes));
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, InSteps, testing::ValuesIn(all_steps));

// More than are taken at once, in sums of the same and of other numbers than the matrix has.
TEST(LayersOfManySamples, AreThoseOfRows) {
  const auto usage = models() / "usage";
  const Words problem{"--model",  usage / "slow.pt", "--data",    usage / "brief_data.h5",
                      "--output", "result.h5",       "--threads", "1"};
  Batch batch;
  const auto add = [&](const std::string& name, int ranks, const Words& options) {
    batch.add(name, ranks, problem + options);
  };
  add("rows", 2, {"--method", "rows", "--dtype", "float64"});
  add("wide", 1, {"--method", "layers", "--dtype", "float64"});
  add("narrow", 1, {"--method", "layers"});
  add("on_three", 3, {"--method", "layers"});
  add("sums_of_float64", 2, {"--method", "layers", "--accumulate", "float64"});
  add("part", 2, {"--method", "layers", "--rows", "1300:1445"});  // with columns of layers that lie outside of it
  batch.run();
  const auto file = [&](const std::string& name) { return batch.folder(name) / "result.h5"; };
  for (const auto* name : {"rows", "wide", "narrow", "on_three", "sums_of_float64", "part"}) {
    ASSERT_EQ(batch.finished(name).exit_code, 0) << batch.finished(name).errors;
  }
  EXPECT_NE(batch.finished("narrow").output.find("0 rows by double-backward"), std::string::npos);
  EXPECT_LE(relative_difference(file("wide"), file("rows")), 1e-12);
  EXPECT_LE(relative_difference(file("narrow"), file("rows")), 1e-5);
  EXPECT_LE(relative_difference(file("sums_of_float64"), file("rows")), 1e-5);
  const auto bytes = StoredFile(file("narrow")).bytes("/hessian");
  EXPECT_TRUE(StoredFile(file("on_three")).bytes("/hessian") == bytes);
  EXPECT_TRUE(StoredFile(file("part")).bytes("/hessian") == bytes.substr(1300 * (bytes.size() / 1445)));
}

TEST(LayersOfTokens, AreMadeInTwoStages) {
  const Folder folder;
  const auto finished = run_program(2, tokens("layers", "result.h5", {}), folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.output.find("each for all samples at once; "), std::string::npos) << finished.output;
  EXPECT_NE(finished.output.find("each for all positions of all samples at once; "), std::string::npos)
      << finished.output;
}

TEST(LayersOfTokens, SayWhichWayEachParameterTook) {
  const std::string why = "it is no weight or bias of a linear layer, a convolution, an embedding or a norm";
  const Folder folder;
  const auto finished = run_program(1, tokens("auto", "result.h5", {}), folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors;
  EXPECT_NE(finished.output.find("backward passes"), std::string::npos) << finished.output;
  EXPECT_NE(finished.output.find(why), std::string::npos) << finished.output;
  const auto methods = StoredFile(folder / "result.h5").attribute_text("/", "parameter_methods");
  EXPECT_NE(methods.find(": layers"), std::string::npos) << methods;
  EXPECT_NE(methods.find(": rows, " + why), std::string::npos) << methods;
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
