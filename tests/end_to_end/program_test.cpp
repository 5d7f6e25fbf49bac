// The program against torch.autograd.functional.hessian in float64: every case in both formats and both dtypes.

#include "program.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <sstream>

#include "stored_file.hpp"

namespace end_to_end {
namespace {

// All that end_to_end_models.py makes.
const std::vector<std::string> networks{"question",
                                        "mlp_mse",
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
                                        "l2_of_a_part"};
const std::vector<std::string> losses{"soft_targets",         "loss_nll",        "loss_l1",
                                      "loss_smooth_l1",       "loss_huber",      "loss_bce",
                                      "loss_bce_with_logits", "loss_kl_div",     "loss_poisson_nll",
                                      "label_smoothing",      "loss_pos_weight", "l2_of_a_convolution"};

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
  // Seven samples: the last batch of three is a batch of one.
  for (const auto* name : {"minibatches_mean", "minibatches_sum", "minibatches_weighted"}) {
    for (const bool exported : {false, true}) {
      for (const int batch_size : {1, 3}) add(name, exported, exported == (batch_size == 3), batch_size);
    }
  }
  for (const auto* name : {"mlp_mse", "transformer", "two_inputs", "scripted_loss", "model_computes_loss",
                           "loss_from_inputs_alone", "label_smoothing", "several_heads", "l2_of_a_part"}) {
    const bool exported = name[0] == 't' || name[0] == 'l';
    add(name, exported, true, 2);
  }
  return runs;
}

std::vector<std::string> arguments_of(const Run& run, const std::filesystem::path& output) {
  const auto folder = models() / run.name;
  std::vector<std::string> arguments{"--model", folder / run.model, "--data", folder / run.data, "--output",
                                     output,    "--threads",        "1"};
  for (auto word : lines_of(content_of(folder / "options"))) {
    const std::string placeholder = "@CASE@";
    const auto at = word.find(placeholder);
    if (at != std::string::npos) word.replace(at, placeholder.size(), folder.string());
    arguments.push_back(word);
  }
  // Models are in float32 and float64_model in float64: the other dtype is asked for, the model's own is the default.
  const bool own = (run.name == "float64_model") == (run.dtype == "float64");
  if (!own) arguments.insert(arguments.end(), {"--dtype", run.dtype});
  if (run.batch_size) arguments.insert(arguments.end(), {"--batch-size", std::to_string(*run.batch_size)});
  return arguments;
}

double largest(const std::vector<double>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0,
                         [](double m, double x) { return std::max(m, std::abs(x)); });
}

// Largest difference relative to the largest number of the reference; NaN and infinity count as infinity.
double relative_difference(const std::vector<double>& numbers, const std::vector<double>& reference) {
  double worst = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double difference = std::abs(numbers[i] - reference[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
  }
  const double scale = largest(reference);
  return scale == 0 ? worst : worst / scale;
}

std::vector<std::int64_t> offsets_of(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> offsets(sizes.size(), 0);
  if (!sizes.empty()) std::partial_sum(sizes.begin(), sizes.end() - 1, offsets.begin() + 1);
  return offsets;
}

// "[32, 1, 3, 3]", padded with zeros to a width.
std::vector<std::int64_t> dimensions_of(std::string shape, std::size_t width, std::size_t& count) {
  std::replace_if(
      shape.begin(), shape.end(), [](char c) { return std::string("[],").find(c) != std::string::npos; }, ' ');
  std::istringstream in(shape);
  std::vector<std::int64_t> dimensions;
  for (std::int64_t d = 0; in >> d;) dimensions.push_back(d);
  count = dimensions.size();
  dimensions.resize(std::max(width, count), 0);
  return dimensions;
}

void expect_parameters_described_like(const StoredFile& file, const StoredFile& reference) {
  const auto names = reference.strings("/names");
  const auto shapes = reference.strings("/shapes");
  const auto sizes = reference.integers("/sizes");
  const auto offsets = offsets_of(sizes);
  EXPECT_EQ(file.attribute_strings("/hessian", "parameter_names"), names);
  EXPECT_EQ(file.attribute_strings("/hessian", "parameter_shapes"), shapes);
  EXPECT_EQ(file.attribute_integers("/hessian", "parameter_sizes"), sizes);
  EXPECT_EQ(file.attribute_integers("/hessian", "parameter_offsets"), offsets);
  EXPECT_EQ(file.strings("/parameters/name"), names);
  EXPECT_EQ(file.integers("/parameters/size"), sizes);
  EXPECT_EQ(file.integers("/parameters/offset"), offsets);

  const auto table_shape = file.shape("/parameters/shape");
  ASSERT_EQ(table_shape.size(), 2U);
  ASSERT_EQ(table_shape[0], names.size());
  const auto table = file.integers("/parameters/shape");
  const auto ndim = file.integers("/parameters/ndim");
  ASSERT_EQ(ndim.size(), names.size());
  std::size_t most_dimensions = 0;
  for (std::size_t p = 0; p < names.size(); ++p) {
    std::size_t count = 0;
    const auto expected = dimensions_of(shapes[p], table_shape[1], count);
    const auto begin = table.begin() + static_cast<std::ptrdiff_t>(p * table_shape[1]);
    EXPECT_EQ(std::vector<std::int64_t>(begin, begin + static_cast<std::ptrdiff_t>(table_shape[1])), expected)
        << names[p];
    EXPECT_EQ(ndim[p], static_cast<std::int64_t>(count)) << names[p];
    most_dimensions = std::max(most_dimensions, count);
  }
  EXPECT_EQ(table_shape[1], most_dimensions);
}

class AgainstPyTorch : public testing::TestWithParam<Run> {};

TEST_P(AgainstPyTorch, HessianGradientAndParametersAgree) {
  const auto& run = GetParam();
  const Folder folder;
  const auto output = folder / "result.h5";
  const auto finished = run_program(run.ranks, arguments_of(run, output), folder.path());
  ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;

  const StoredFile file(output);
  const StoredFile reference(models() / run.name / "reference.h5");
  const double tolerance = run.dtype == "float64" ? 1e-10 : 1e-5;
  ASSERT_EQ(file.shape("/hessian"), reference.shape("/hessian"));
  ASSERT_EQ(file.shape("/gradient"), reference.shape("/gradient"));
  ASSERT_EQ(file.shape("/parameters/value"), reference.shape("/value"));
  EXPECT_LE(relative_difference(file.numbers("/hessian"), reference.numbers("/hessian")), tolerance);
  EXPECT_LE(relative_difference(file.numbers("/gradient"), reference.numbers("/gradient")), tolerance);
  EXPECT_LE(relative_difference({file.attribute_number("/", "loss_value")}, reference.numbers("/loss_value")),
            tolerance);
  // Weights are exact in float32, but for those of the one model in float64.
  const bool rounded = run.name == "float64_model" && run.dtype == "float32";
  EXPECT_LE(relative_difference(file.numbers("/parameters/value"), reference.numbers("/value")), rounded ? 1e-7 : 0);

  EXPECT_EQ(file.type("/hessian"), run.dtype);
  EXPECT_EQ(file.type("/gradient"), run.dtype);
  EXPECT_EQ(file.attribute_text("/", "dtype"), run.dtype);
  EXPECT_EQ(file.attribute_integer("/", "ranks"), run.ranks);
  EXPECT_EQ(file.attribute_integer("/", "complete"), 1);
  expect_parameters_described_like(file, reference);
}

const auto name_of_test = [](const testing::TestParamInfo<Run>& info) { return text_of(info.param); };
INSTANTIATE_TEST_SUITE_P(Reference, AgainstPyTorch, testing::ValuesIn(all_runs()), name_of_test);

TEST(Reference, EveryCaseThatWasMadeIsRun) {
  auto run = networks;
  run.insert(run.end(), losses.begin(), losses.end());
  auto made = lines_of(content_of(models() / "cases"));
  std::sort(run.begin(), run.end());
  std::sort(made.begin(), made.end());
  EXPECT_EQ(run, made);
}

}  // namespace
}  // namespace end_to_end
