// Architectures that users know, from architectures.py: all of H against PyTorch, in both formats, by both methods.

#include <gtest/gtest.h>

#include <optional>
#include <ostream>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

const Words architectures{"resnet", "unet", "efficientnet", "gpt", "vit", "mixer", "lstm", "graph_network"};

struct Run {
  std::string name;
  std::string model;  ///< model.pt or model.pt2
  std::string method;
  std::string dtype;
  int ranks = 1;
};

// The layered method in float64 from both formats; plain rows, and float32 as users run it, from either in turn.
// Numbers of ranks go round.
std::vector<Run> all_runs() {
  std::vector<Run> runs;
  const auto add = [&](const std::string& name, bool exported, const char* method, const char* dtype) {
    const int ranks = 1 + static_cast<int>(runs.size() + runs.size() / 3) % 3;
    runs.push_back({name, exported ? "model.pt2" : "model.pt", method, dtype, ranks});
  };
  bool exported = false;
  for (const auto& name : architectures) {
    add(name, true, "auto", "float64");
    add(name, false, "auto", "float64");
    exported = !exported;
    add(name, exported, "rows", "float64");
    add(name, !exported, "auto", "float32");
  }
  return runs;
}

std::string text_of(const Run& run) {
  return run.name + (run.model == "model.pt" ? "_pt_" : "_pt2_") + run.method + "_" + run.dtype + "_on_" +
         std::to_string(run.ranks);
}

std::ostream& operator<<(std::ostream& out, const Run& run) {
  return out << text_of(run);
}

class Architecture : public testing::TestWithParam<Run> {
 protected:
  static void SetUpTestSuite() {
    batch.emplace();
    for (const auto& run : all_runs()) {
      const auto files = models() / run.name;
      const Words arguments{"--model", files / run.model, "--data",   files / "data.h5", "--output",  "result.h5",
                            "--dtype", run.dtype,         "--method", run.method,        "--threads", "1"};
      batch->add(text_of(run), run.ranks, arguments + options_of(run.name));
    }
    batch->run();
  }
  static void TearDownTestSuite() { batch.reset(); }
  static inline std::optional<Batch> batch;
};

TEST_P(Architecture, HasTheHessianThatPyTorchDerives) {
  const auto& run = GetParam();
  const auto& finished = batch->finished(text_of(run));
  ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  const StoredFile file(batch->folder(text_of(run)) / "result.h5");
  const StoredFile reference(models() / run.name / "reference.h5");
  ASSERT_NO_FATAL_FAILURE(expect_like_reference(file, reference, run.dtype == "float64" ? 1e-9 : 1e-4));
  EXPECT_EQ(file.attribute_integer("/", "complete"), 1);
}

INSTANTIATE_TEST_SUITE_P(All, Architecture, testing::ValuesIn(all_runs()), testing::PrintToStringParamName());

TEST(Architectures, EveryOneThatWasMadeIsRun) {
  EXPECT_EQ(architectures, lines_of(content_of(models() / "architectures")));
}

}  // namespace
}  // namespace end_to_end
