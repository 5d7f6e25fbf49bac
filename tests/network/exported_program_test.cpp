// Oracles: what PyTorch in Python derived from the same models, see models/exported_programs.py.
#include "exported_program.hpp"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/script.h>
#include <torch/serialize.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <string>
#include <vector>

#include "content_of.hpp"
#include "expect_error.hpp"

namespace hessian_mpi::network {
namespace {

using c10::IValue;

std::filesystem::path program_file(const std::string& name) {
  return std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / (name + ".pt2");
}

struct Expected {
  std::vector<IValue> inputs;
  std::vector<std::string> names;
  std::vector<bool> trainable;
  std::vector<torch::Tensor> values;
  double loss = 0;
  std::vector<torch::Tensor> gradient;  // of the trainable parameters
  std::vector<torch::Tensor> product;   // Hessian times wave
};

std::vector<torch::Tensor> tensors(const IValue& list) {
  std::vector<torch::Tensor> found;
  for (const IValue& value : list.toListRef()) found.push_back(value.toTensor());
  return found;
}

IValue expected_by_pytorch(const std::string& name) {
  return torch::pickle_load(
      content_of<std::vector<char>>(std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / (name + ".expected")));
}

Expected read_expected(const std::string& name) {
  const auto dict = expected_by_pytorch(name).toGenericDict();
  Expected expected;
  for (const IValue& input : dict.at("inputs").toListRef()) expected.inputs.push_back(input);
  for (const IValue& parameter : dict.at("names").toListRef()) expected.names.push_back(parameter.toStringRef());
  for (const IValue& flag : dict.at("trainable").toListRef()) expected.trainable.push_back(flag.toBool());
  expected.values = tensors(dict.at("values"));
  expected.loss = dict.at("loss").toTensor().item<double>();
  expected.gradient = tensors(dict.at("gradient"));
  expected.product = tensors(dict.at("product"));
  return expected;
}

torch::Tensor wave(torch::IntArrayRef shape) {
  const auto count = c10::multiply_integers(shape);
  return torch::sin(torch::arange(1, count + 1, torch::kFloat64) * 1.7).reshape(shape);
}

torch::Tensor loss_of(const IValue& output) {
  const auto outputs = output.isTuple() ? output.toTupleRef().elements().vec() : std::vector<IValue>{output};
  torch::Tensor loss = torch::zeros({}, torch::kFloat64);
  for (const IValue& value : outputs) {
    if (!value.isTensor() || !value.toTensor().is_floating_point()) continue;
    const auto y = value.toTensor().to(torch::kFloat64);
    loss = loss + (y * wave(y.sizes())).sum() + y.pow(3).sum() / 3;
  }
  return loss;
}

double largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  return a.numel() == 0 ? 0.0 : (a - b).abs().max().item<double>();
}

std::vector<torch::Tensor> derivatives(const torch::Tensor& of, const std::vector<torch::Tensor>& by, bool again) {
  auto found = torch::autograd::grad({of}, by, {}, true, again, /*allow_unused=*/true);
  for (std::size_t p = 0; p < by.size(); ++p) {
    if (!found[p].defined()) found[p] = torch::zeros_like(by[p]);
  }
  return found;
}

void expect_close(const std::vector<torch::Tensor>& actual, const std::vector<torch::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double scale = 1;
  for (const auto& tensor : expected) scale = std::max(scale, tensor.abs().max().item<double>());
  for (std::size_t p = 0; p < actual.size(); ++p) {
    ASSERT_EQ(actual[p].sizes(), expected[p].sizes()) << "parameter " << p;
    EXPECT_LT(largest_difference(actual[p], expected[p]), 1e-12 * scale) << "parameter " << p;
  }
}

std::string error_of(const std::string& name) {
  try {
    load_exported_program(program_file(name));
  } catch (const InputError& error) {
    return error.what();
  }
  return "(loaded)";
}

std::string forward_error(Model& model, const std::vector<IValue>& inputs) {
  try {
    model.forward(inputs);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "(ran)";
}

#define EXPECT_SAYS(message, part) EXPECT_NE((message).find(part), std::string::npos) << (message)

class ExportedProgram : public testing::TestWithParam<std::string> {
 protected:
  // The fused attention has no second derivative.
  static void SetUpTestSuite() { at::globalContext().setSDPUseFlash(false); }

  void SetUp() override {
    expected_ = read_expected(GetParam());
    model_ = load_exported_program(program_file(GetParam()));
    model_->convert(torch::kFloat64, torch::kCPU);
  }

  std::vector<torch::Tensor> trainable() const {
    std::vector<torch::Tensor> found;
    for (const NamedTensor& parameter : model_->parameters()) {
      if (parameter.value.requires_grad()) found.push_back(parameter.value);
    }
    return found;
  }

  Expected expected_;
  std::unique_ptr<Model> model_;
};

TEST_P(ExportedProgram, HasTheParametersOfTheModuleInItsOrder) {
  const auto parameters = model_->parameters();
  ASSERT_EQ(parameters.size(), expected_.names.size());
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    EXPECT_EQ(parameters[p].name, expected_.names[p]);
    EXPECT_EQ(parameters[p].value.requires_grad(), expected_.trainable[p]) << parameters[p].name;
    EXPECT_TRUE(parameters[p].value.is_leaf() && parameters[p].value.is_contiguous()) << parameters[p].name;
    EXPECT_TRUE(torch::equal(parameters[p].value, expected_.values[p])) << parameters[p].name;
  }
}

TEST_P(ExportedProgram, HasTheLossAndTheFirstAndSecondDerivativesOfTheModule) {
  const auto parameters = trainable();
  const auto loss = loss_of(model_->forward(expected_.inputs));
  EXPECT_NEAR(loss.item<double>(), expected_.loss, 1e-12 * std::max(1.0, std::abs(expected_.loss)));
  const auto gradient = derivatives(loss, parameters, true);
  expect_close(gradient, expected_.gradient);
  torch::Tensor along = torch::zeros({}, torch::kFloat64);
  for (const auto& g : gradient) along = along + (g * wave(g.sizes())).sum();
  expect_close(derivatives(along, parameters, false), expected_.product);
}

TEST_P(ExportedProgram, GivesTheSameAgainAndLeavesTheInputsAlone) {
  std::vector<torch::Tensor> before;
  for (const IValue& input : expected_.inputs) before.push_back(input.toTensor().clone());
  const auto first = loss_of(model_->forward(expected_.inputs));
  const auto second = loss_of(model_->forward(expected_.inputs));
  EXPECT_EQ(first.item<double>(), second.item<double>());
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(before[i], expected_.inputs[i].toTensor()));
  }
  // The first graph of derivatives outlives the second run.
  expect_close(derivatives(first, trainable(), false), expected_.gradient);
}

INSTANTIATE_TEST_SUITE_P(Cases, ExportedProgram,
                         testing::Values("small_convolution", "shared_parameters", "batch_norm_eval",
                                         "batch_norm_train", "batch_norm_functional", "batch_norm_eval_core",
                                         "no_statistics_core", "used_in_another_order", "attention", "recurrent",
                                         "two_inputs", "partly_constant", "strided", "sizes", "operators",
                                         "operators_core", "in_place", "fixed_dtype", "keyword_inputs", "nested_inputs",
                                         "constant_inputs", "nested_outputs", "arithmetic", "arithmetic_strict",
                                         "found_sizes", "buffers", "counting", "set_items", "set_items_core",
                                         "no_grad_function", "no_grad_function_strict", "detached", "detached_core",
                                         "vmap_decomposed", "checkpointed", "autocast", "branch_taken", "other_branch",
                                         "other_branch_core", "branch_on_size", "loop", "mapped", "scanned",
                                         "regions_in_regions", "channels_last", "rotary", "narrow", "older"),
                         [](const auto& instance) { return instance.param; });

TEST(ExportedProgramFile, IsToldFromOtherFiles) {
  EXPECT_TRUE(is_exported_program(program_file("small_convolution")));
  EXPECT_FALSE(is_exported_program(std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "small_convolution.expected"));
  EXPECT_FALSE(is_exported_program(program_file("random")));
  EXPECT_FALSE(is_exported_program(program_file("truncated")));
  EXPECT_FALSE(is_exported_program(program_file("no_such_file")));
}

TEST(ExportedProgramFile, SharedTensorIsReadByAllItsUsers) {
  const auto model = load_exported_program(program_file("shared_parameters"));
  const auto inputs = read_expected("shared_parameters").inputs;
  for (const NamedTensor& parameter : model->parameters()) {
    if (parameter.name != "embedding.weight") continue;
    const torch::NoGradGuard values_only;
    parameter.value.zero_();
  }
  // With embedding and output weight zero, only the output's bias is left.
  const auto output = model->forward(inputs).toTensor();
  EXPECT_EQ((output - output[0][0]).abs().max().item<double>(), 0.0);
}

TEST(ExportedProgramFile, KeepsItsDtypeWithoutConversion) {
  const auto model = load_exported_program(program_file("fixed_dtype"));
  const auto x = read_expected("fixed_dtype").inputs[0].toTensor();
  EXPECT_EQ(model->parameters()[0].value.scalar_type(), torch::kFloat32);
  EXPECT_EQ(model->forward({x.to(torch::kFloat32)}).toTensor().scalar_type(), torch::kFloat32);
}

TEST(ExportedProgramFile, RefusesTheModeItWasNotExportedIn) {
  struct Case {
    const char* name;
    bool eval, train;
  };
  for (const auto& [name, eval, train] :
       {Case{"small_convolution", true, true}, Case{"attention", true, true}, Case{"recurrent", true, true},
        Case{"dropout_eval", true, false}, Case{"dropout_train", false, true}, Case{"batch_norm_eval", true, false},
        Case{"batch_norm_train", false, true}, Case{"batch_norm_functional", false, true},
        Case{"batch_norm_eval_core", true, false}, Case{"no_statistics_core", true, true}}) {
    const auto model = load_exported_program(program_file(name));
    const auto accepts = [&](Mode mode) {
      try {
        model->set_mode(mode);
        return true;
      } catch (const InputError& error) {
        EXPECT_SAYS(std::string(error.what()), "torch.export.export, or say --mode");
        return false;
      }
    };
    EXPECT_EQ(accepts(Mode::eval), eval) << name;
    EXPECT_EQ(accepts(Mode::train), train) << name;
  }
}

TEST(ExportedProgramInputs, OtherNumberOfSamplesThanExportedSaysHowToExport) {
  const auto model = load_exported_program(program_file("static_batch"));
  const auto message = forward_error(*model, {torch::zeros({5, 1, 4, 4}, torch::kFloat64)});
  EXPECT_SAYS(message, "'x' (Double [8, 1, 4, 4])");
  EXPECT_SAYS(message, "[5, 1, 4, 4]");
  EXPECT_SAYS(message, "dynamic_shapes={'x': {0: torch.export.Dim.DYNAMIC}}");
  EXPECT_SAYS(message, "--batch-size 8");
}

TEST(ExportedProgramInputs, WrongOnesSayWhatIsExpected) {
  const auto model = load_exported_program(program_file("two_inputs"));
  const auto x = torch::zeros({5, 3}, torch::kFloat64);
  const auto index = torch::zeros({5}, torch::kLong);
  EXPECT_SAYS(forward_error(*model, {x}), "2 inputs: 'x' (Double [any, 3]), 'index' (Long [any]) but was given 1");
  EXPECT_SAYS(forward_error(*model, {x, index, x}), "but was given 3");
  EXPECT_SAYS(forward_error(*model, {index, x}), "'x' (Double [any, 3])");
  EXPECT_SAYS(forward_error(*model, {x, index.to(torch::kFloat64)}), "floating and integer");
  EXPECT_SAYS(forward_error(*model, {x, index[0]}), "'index' (Long [any])");
  EXPECT_SAYS(forward_error(*model, {x, std::string("text")}), "must be a tensor");
  EXPECT_SAYS(forward_error(*model, {torch::zeros({5, 4}, torch::kFloat64), index}),
              "'x' (Double [any, 3]) but was given Double [5, 4]");
  EXPECT_SAYS(forward_error(*model, {x, index.slice(0, 0, 4)}), "dimension 0 must be 5");
  EXPECT_EQ(forward_error(*model, {x, index}), "(ran)");
}

TEST(ExportedProgramInputs, AnOperatorThatFailsIsNamedWithItsLineOfPython) {
  const auto model = load_exported_program(program_file("attention"));
  const auto message = forward_error(*model, {torch::full({2, 4}, 100, torch::kLong)});
  EXPECT_SAYS(message, "operator aten.embedding.default (");
  EXPECT_SAYS(message, "exported_programs.py:");
  EXPECT_SAYS(message, "self.norm(self.embedding(tokens)");
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(ExportedProgramInputs, ParameterChangedInForwardIsRefused) {
  const auto model = load_exported_program(program_file("own_update"));
  EXPECT_SAYS(forward_error(*model, {torch::zeros({4, 3}, torch::kFloat64)}), "changes its parameter 'weight'");
}

TEST(ExportedProgramFile, UnsupportedConstructIsNamedWithItsLineOfPython) {
  const auto message = error_of("other_construct");
  EXPECT_SAYS(message, "other_construct.pt2");
  EXPECT_SAYS(message, "higher_order.flex_attention (");
  EXPECT_SAYS(message, "exported_programs.py:");
  EXPECT_SAYS(message, "torch.cond(condition, self.one, self.other, (h,))");
}

TEST(ExportedProgramFile, OperatorWhoseLineIsNotKnownIsNamedWithItsModule) {
  EXPECT_SAYS(error_of("other_linear"), "mine.linear.default (forward() of 'first', torch.nn.modules.linear.Linear)");
}

TEST(ExportedProgramFile, DerivativeThatTheExportLeftOutIsMissed) {
  const auto x = wave({6, 3});
  const auto decomposed = load_exported_program(program_file("no_grad_core"));
  EXPECT_SAYS(forward_error(*decomposed, {x}), "torch.no_grad(), which run_decompositions() has taken out");
  EXPECT_SAYS(error_of("own_derivative"), "torch.autograd.Function");
  EXPECT_SAYS(error_of("own_derivative"), "return x.sign()");
}

TEST(ExportedProgramFile, PartsOfVmapSayHowToExport) {
  EXPECT_SAYS(error_of("vmap"), "run_decompositions({})");
}

TEST(ExportedProgramFile, ComplexParameterIsRefused) {
  EXPECT_SAYS(error_of("complex_weight"), "complex parameter 'weight'");
}

TEST(ExportedProgramInputs, NumbersComeAsTensorsThatHoldTheSameForAllSamples) {
  const auto model = load_exported_program(program_file("numbers"));
  const auto x = wave({6, 3}), half = torch::full({6}, 0.5, torch::kFloat64);
  const auto output = model->forward({x, torch::full({6}, 3, torch::kLong), half}).toTensor();
  const auto twice = model->forward({x, std::int64_t{6}, half[0]}).toTensor();
  EXPECT_TRUE(torch::allclose(output * 2, twice));
  EXPECT_SAYS(forward_error(*model, {x, torch::arange(6), half}),
              "'count' must be an integer, the same for all samples");
  EXPECT_SAYS(forward_error(*model, {x, std::int64_t{3}, torch::arange(6.0, torch::kFloat64)}), "'factor' (Double [])");
}

TEST(ExportedProgramFile, FormatOfPyTorchBefore28SaysHowToWriteItAgain) {
  EXPECT_TRUE(is_exported_program(program_file("oldest")));
  EXPECT_SAYS(error_of("oldest"), "torch.export.save(torch.export.load(");
}

TEST(ExportedProgramInputs, SizesWithWhichForwardWouldTakeAnotherWayAreRefused) {
  for (const char* name : {"chooses_by_size", "chooses_by_size_strict"}) {
    SCOPED_TRACE(name);
    const auto model = load_exported_program(program_file(name));
    const auto with = [&](std::int64_t samples, std::int64_t rows) {
      return forward_error(*model,
                           {torch::zeros({samples, 3}, torch::kFloat64), torch::zeros({rows, 3}, torch::kFloat64)});
    };
    EXPECT_EQ(with(6, 5), "(ran)");
    EXPECT_EQ(with(4, 6), "(ran)");
    EXPECT_EQ(with(10, 2), "(ran)");
    EXPECT_SAYS(with(5, 5), "size()[0] % 2) == 0");
    EXPECT_SAYS(with(6, 3), "> 9");
    EXPECT_SAYS(with(12, 5), "!= 18");
  }
}

TEST(ExportedProgramFile, MemoryReadByStridesThatHaveChangedIsRefused) {
  EXPECT_SAYS(error_of("by_strides"), "aten.as_strided.default (");
  EXPECT_SAYS(error_of("by_strides"), "not in row-major order at export");
}

// Under autocast, float32 is rounded to bfloat16 as PyTorch does it, number for number.
TEST(ExportedProgramFile, AutocastRoundsWhatItRoundsInPyTorch) {
  const auto model = load_exported_program(program_file("autocast_float32"));
  const auto expected = tensors(expected_by_pytorch("autocast_float32"));
  const auto x = wave({6, 3}).to(torch::kFloat32);
  const auto output = model->forward({x}).toTuple()->elements().vec();
  ASSERT_EQ(output.size(), expected.size());
  EXPECT_EQ(output[1].toTensor().scalar_type(), torch::kBFloat16);
  for (std::size_t i = 0; i < output.size(); ++i) EXPECT_TRUE(torch::equal(output[i].toTensor(), expected[i])) << i;
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
}

struct Damage {
  const char* name;
  const char* says;
};

class DamagedProgram : public testing::TestWithParam<Damage> {};

TEST_P(DamagedProgram, IsAnInputErrorThatNamesTheFile) {
  const auto message = error_of(GetParam().name);
  EXPECT_SAYS(message, std::string(GetParam().name) + ".pt2");
  EXPECT_SAYS(message, GetParam().says);
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DamagedProgram,
    testing::Values(Damage{"truncated", "is damaged: the archive has no directory"},
                    Damage{"random", "is damaged: the archive has no directory"},
                    Damage{"no_such_file", "cannot be read"}, Damage{"without_model", "no exported program"},
                    Damage{"without_weight", "has no data/weights/weight_0"},
                    Damage{"short_weight", "tensor 'conv.weight'"}, Damage{"not_json", "damaged"},
                    Damage{"deep_json", "nests its parts too deeply"}, Damage{"huge_size", "too large to be true"},
                    Damage{"huge_expanded", "too large to be true"}, Damage{"negative_size", "negative size"},
                    Damage{"huge_offset", "too large to be true"}, Damage{"offset_outside", "need 161 elements"},
                    Damage{"fraction_size", "not an integer"}, Damage{"beyond_64_bits", "not an integer"},
                    Damage{"unknown_dtype", "dtype number 99"}, Damage{"missing_key", "damaged"},
                    Damage{"from_file", "aten.from_file.default"}, Damage{"print", "not allowed"},
                    Damage{"unknown_operator", "not known to this version of LibTorch"},
                    Damage{"other_namespace", "only operators of PyTorch's own library"},
                    Damage{"custom_operator", "only operators of PyTorch's own library"},
                    Damage{"experts", "experts_implementation=\"batched_mm\""},
                    Damage{"python_function", "only operators of PyTorch's own library"},
                    Damage{"wrong_argument", "no argument 'nonsense'"},
                    Damage{"wrong_kind", "argument 'self' wants Tensor"}, Damage{"unknown_value", "'nobody'"},
                    Damage{"no_nodes", "damaged"}, Damage{"backward_order", "that nothing computes"},
                    Damage{"other_version", "version 9"}, Damage{"fewer_inputs", "names 4 inputs"},
                    Damage{"cond_of_less", "is called with other arguments"},
                    Damage{"other_guard", "with open('x'), a condition that this program cannot check"},
                    Damage{"older_cut", "is damaged: the archive has no directory"},
                    Damage{"older_objects", "older_objects.pt2"}, Damage{"older_missing", "has no tensor"}),
    [](const auto& instance) { return std::string(instance.param.name); });

TEST(DamagedProgram, RefusedOperatorIsNamedWithItsLineOfPython) {
  const auto message = error_of("from_file");
  EXPECT_SAYS(message, "not allowed");
  EXPECT_SAYS(message, "exported_programs.py:");
  EXPECT_SAYS(message, "torch.tanh(self.conv(x))");
  EXPECT_FALSE(std::filesystem::exists("stolen"));
}

TEST(DamagedProgram, WrongNumberOfResultsFailsWhereTheOperatorRuns) {
  const auto model = load_exported_program(program_file("wrong_outputs"));
  EXPECT_SAYS(forward_error(*model, {torch::zeros({3, 1, 4, 4}, torch::kFloat64)}), "aten.tanh.default");
}

// ---- what would do harm

void expect_refused(const std::string& name, std::initializer_list<std::string> parts) {
  SCOPED_TRACE(name);
  expect_input_error([&] { load_exported_program(program_file("hostile/" + name)); }, parts);
}

TEST(HostileProgram, IsRefusedByTheNameOfAnOperatorThatTouchesFiles) {
  expect_refused("reads_a_file", {"reads_a_file.pt2", "aten.from_file.default", "not allowed", "files"});
}

TEST(HostileProgram, KeepsItsTensorsInItsArchive) {
  expect_refused("path_upwards", {"'weight'", "'../constants/model_constants_config.json'", "leads out"});
  expect_refused("path_absolute", {"'weight'", "'/etc/hostname'", "leads out"});
  expect_refused("member_upwards", {"member_upwards.pt2", "'linear/../../weights'", "leads out"});
  expect_refused("member_absolute", {"member_absolute.pt2", "'/linear/data/weights/weight_0'", "leads out"});
}

TEST(HostileProgram, NestsWithinBounds) {
  expect_refused("deep_sizes", {"deep_sizes.pt2", "nests its parts too deeply"});
}

TEST(HostileProgram, CallsWithNumbersThatHaveAMeaning) {
  expect_refused("dtype_of_no_kind", {"aten.to.dtype", "'dtype'", "number 900"});
}

TEST(HostileProgram, IsReadAfterItsArchiveWasChecked) {
  expect_refused("flipped_linear", {"flipped_linear.pt2", "weight_0'", "checksum"});
  expect_refused("huge_member_linear", {"huge_member_linear.pt2", "2147483646 bytes"});
  EXPECT_NO_THROW(load_exported_program(program_file("hostile/linear")));
}

}  // namespace
}  // namespace hessian_mpi::network
