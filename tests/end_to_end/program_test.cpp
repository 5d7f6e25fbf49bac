// The program against torch.autograd.functional.hessian in float64: every case in both formats and both dtypes.

#include "program.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <ostream>

#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

// All that end_to_end_models.py makes.
const std::vector<std::string> networks{"question",
                                        "mlp_mse",
                                        "many_samples",
                                        "float64_model",
                                        "batch_norm_eval",
                                        "batch_norm_train",
                                        "transformer",
                                        "transformer_traced",
                                        "encoder_layer",
                                        "gru",
                                        "tied",
                                        "frozen",
                                        "unused",
                                        "two_inputs",
                                        "embedding",
                                        "recommender",
                                        "odd_parameters",
                                        "scripted_loss",
                                        "model_computes_loss",
                                        "loss_from_inputs_alone",
                                        "linear_loss",
                                        "patterns",
                                        "minibatches_mean",
                                        "minibatches_sum",
                                        "minibatches_weighted",
                                        "several_heads",
                                        "named_inputs",
                                        "l2_of_a_part"};
const std::vector<std::string> losses{"soft_targets",         "loss_nll",        "loss_l1",
                                      "loss_smooth_l1",       "loss_huber",      "loss_bce",
                                      "loss_bce_with_logits", "loss_kl_div",     "loss_poisson_nll",
                                      "label_smoothing",      "loss_pos_weight", "l2_of_a_convolution",
                                      "loss_gaussian_nll",    "loss_triplet",    "loss_multi_margin",
                                      "loss_soft_margin",     "loss_exported",   "two_sets",
                                      "whole_boundary",       "by_positions",    "by_inputs_of_samples",
                                      "by_some_inputs",       "by_inputs_alone"};
const std::vector<std::string> only_scripted_and_whole{"by_positions_with_forces"};
// Networks that take derivatives in forward(), in float64.
const std::vector<std::string> with_derivatives{"derivative_by_input"};
// A network in float64 that casts.
const std::vector<std::string> with_casts{"casts"};

struct Run {
  std::string name;
  std::string model;  ///< model.pt or model.pt2
  std::string data;   ///< data.h5 or data.pt
  std::string dtype;
  int ranks = 1;
  std::optional<int> batch_size;
};

std::string text_of(const Run& run) {
  return run.name + (run.model == "model.pt" ? "_pt_" : "_pt2_") + run.dtype +
         (run.batch_size ? "_batches_of_" + std::to_string(*run.batch_size) : "") + "_on_" + std::to_string(run.ranks);
}

std::ostream& operator<<(std::ostream& out, const Run& run) {
  return out << text_of(run);
}

// Numbers of ranks go round from run to run, so that each number meets each kind of network somewhere.
std::vector<Run> all_runs() {
  std::vector<Run> runs;
  const auto add = [&](const std::string& name, bool exported, bool wide, std::optional<int> batch_size) {
    const int ranks = 1 + static_cast<int>(runs.size() + runs.size() / 4) % 4;
    runs.push_back({name, exported ? "model.pt2" : "model.pt", exported == wide ? "data.pt" : "data.h5",
                    wide ? "float64" : "float32", ranks, batch_size});
  };
  for (const auto& name : networks) {
    for (const bool exported : {false, true}) {
      for (const bool wide : {true, false}) add(name, exported, wide, std::nullopt);
    }
  }
  for (const auto& name : losses) {
    add(name, false, true, std::nullopt);
    add(name, true, false, std::nullopt);
  }
  for (const bool exported : {false, true}) {
    for (const auto& name : with_derivatives) {
      add(name, exported, true, std::nullopt);
      add(name, exported, true, 2);
    }
    for (const auto& name : with_casts) add(name, exported, true, std::nullopt);
  }
  for (const auto& name : only_scripted_and_whole) {
    add(name, false, true, std::nullopt);
    add(name, false, false, std::nullopt);
  }
  // Seven samples: the last batch of three is a batch of one.
  for (const auto* name : {"minibatches_mean", "minibatches_sum", "minibatches_weighted"}) {
    for (const bool exported : {false, true}) {
      for (const int batch_size : {1, 3}) add(name, exported, exported == (batch_size == 3), batch_size);
    }
  }
  for (const auto* name :
       {"mlp_mse", "transformer", "two_inputs", "scripted_loss", "model_computes_loss", "loss_from_inputs_alone",
        "label_smoothing", "several_heads", "l2_of_a_part", "loss_exported", "loss_gaussian_nll", "whole_boundary",
        "by_inputs_of_samples", "by_some_inputs", "by_inputs_alone"}) {
    const bool exported = name[0] == 't' || name[0] == 'l';
    add(name, exported, true, 2);
  }
  return runs;
}

Words arguments_of(const Run& run) {
  const auto folder = models() / run.name;
  Words arguments{"--model",  folder / run.model, "--data",    folder / run.data,
                  "--output", "result.h5",        "--threads", "1"};
  arguments = arguments + options_of(run.name);
  // Models are in float32, float64_model and casts in float64: the other dtype is asked for, the model's own is the
  // default.
  const bool own = (run.name == "float64_model" || run.name == "casts") == (run.dtype == "float64");
  if (!own) arguments.insert(arguments.end(), {"--dtype", run.dtype});
  if (run.batch_size) arguments.insert(arguments.end(), {"--batch-size", std::to_string(*run.batch_size)});
  return arguments;
}

void expect_agreement(const Run& run, const Finished& finished, const std::filesystem::path& output) {
  ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  const StoredFile file(output);
  const StoredFile reference(models() / run.name / "reference.h5");
  ASSERT_NO_FATAL_FAILURE(expect_like_reference(file, reference, run.dtype == "float64" ? 1e-10 : 1e-5));
  // Weights are exact in float32, but for those of the one model in float64.
  const bool rounded = run.name == "float64_model" && run.dtype == "float32";
  EXPECT_LE(relative_difference(file.numbers("/parameters/value"), reference.numbers("/value")), rounded ? 1e-7 : 0);

  EXPECT_EQ(file.type("/hessian"), run.dtype);
  EXPECT_EQ(file.type("/gradient"), run.dtype);
  EXPECT_EQ(file.attribute_text("/", "dtype"), run.dtype);
  EXPECT_EQ(file.attribute_integer("/", "ranks"), run.ranks);
  EXPECT_EQ(file.attribute_integer("/", "complete"), 1);
}

class AgainstPyTorch : public testing::TestWithParam<Run> {
 protected:
  static void SetUpTestSuite() {
    batch.emplace();
    for (const auto& run : all_runs()) batch->add(text_of(run), run.ranks, arguments_of(run));
    batch->run();
  }
  static void TearDownTestSuite() { batch.reset(); }
  static inline std::optional<Batch> batch;
};

TEST_P(AgainstPyTorch, HessianGradientAndParametersAgree) {
  const auto name = text_of(GetParam());
  expect_agreement(GetParam(), batch->finished(name), batch->folder(name) / "result.h5");
}

INSTANTIATE_TEST_SUITE_P(Reference, AgainstPyTorch, testing::ValuesIn(all_runs()), testing::PrintToStringParamName());

// Each by a start of its own, as users run it: both formats of networks and of data, both dtypes, batches, losses, and
// each number of ranks.
class AgainstPyTorchAlone : public testing::TestWithParam<Run> {};

TEST_P(AgainstPyTorchAlone, HessianGradientAndParametersAgree) {
  const auto& run = GetParam();
  const Folder folder;
  expect_agreement(run, run_program(run.ranks, arguments_of(run), folder.path()), folder / "result.h5");
}

INSTANTIATE_TEST_SUITE_P(Reference, AgainstPyTorchAlone,
                         testing::Values(Run{"question", "model.pt", "data.h5", "float32", 2, {}},
                                         Run{"transformer", "model.pt2", "data.pt", "float64", 3, {}},
                                         Run{"minibatches_weighted", "model.pt2", "data.h5", "float32", 4, 3},
                                         Run{"scripted_loss", "model.pt", "data.pt", "float64", 1, 2},
                                         Run{"batch_norm_train", "model.pt", "data.h5", "float64", 4, {}},
                                         Run{"model_computes_loss", "model.pt2", "data.h5", "float32", 1, {}},
                                         Run{"several_heads", "model.pt2", "data.pt", "float32", 2, 2},
                                         Run{"float64_model", "model.pt2", "data.h5", "float64", 3, {}}),
                         testing::PrintToStringParamName());

// Casts that are not made are named by operator and line; those that are kept have the rounding of float32 and half,
// which the checks know.
class Casts : public testing::TestWithParam<const char*> {};

TEST_P(Casts, AreNamedOrKept) {
  Batch batch;
  const end_to_end::Run run{"casts", GetParam(), "data.h5", "float64", 1, {}};
  batch.add("wide", 1, arguments_of(run));
  batch.add("kept", 1, arguments_of(run) + Words{"--keep-casts"});
  batch.run();
  const StoredFile wide(batch.folder("wide") / "result.h5"), kept(batch.folder("kept") / "result.h5");
  const auto cures = wide.attribute_text("/", "cures");
  for (const auto* named : {"to float32 (", "softmax float32 (", "to float16 (", "arange float32 (",
                            "'phase' of float32", "end_to_end_models.py:"}) {
    EXPECT_NE(cures.find(named), std::string::npos) << named << " is not in " << cures;
    EXPECT_NE(batch.finished("wide").errors.find(named), std::string::npos) << named;
  }
  EXPECT_EQ(wide.attribute_integer("/", "keep_casts"), 0);
  EXPECT_EQ(batch.finished("kept").exit_code, 0) << batch.finished("kept").errors;
  EXPECT_EQ(kept.attribute_text("/", "cures"), "");
  EXPECT_EQ(kept.attribute_integer("/", "keep_casts"), 1);
  const double difference =
      relative_difference(batch.folder("kept") / "result.h5", models() / "casts" / "reference.h5");
  EXPECT_GT(difference, 1e-6);
  EXPECT_LT(difference, 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Formats, Casts, testing::Values("model.pt", "model.pt2"));

TEST(Reference, EveryCaseThatWasMadeIsRun) {
  auto run = networks;
  run.insert(run.end(), losses.begin(), losses.end());
  run.insert(run.end(), only_scripted_and_whole.begin(), only_scripted_and_whole.end());
  run.insert(run.end(), with_derivatives.begin(), with_derivatives.end());
  run.insert(run.end(), with_casts.begin(), with_casts.end());
  auto made = lines_of(content_of(models() / "cases"));
  std::sort(run.begin(), run.end());
  std::sort(made.begin(), made.end());
  EXPECT_EQ(run, made);
}

}  // namespace
}  // namespace end_to_end
