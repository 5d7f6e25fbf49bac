#include "torchscript_model.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <new>
#include <thread>

#include "content_of.hpp"
#include "expect_error.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/load_model.hpp"
#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

const std::filesystem::path folder = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "torchscript";

std::unique_ptr<Model> load(const std::string& name) {
  static const UnoptimisedTorchScript unoptimised;
  return load_model(folder / name);
}

// A tensor of a dict that Python wrote with torch.save.
Tensor expected(const std::string& name, const std::string& key) {
  return torch::jit::pickle_load(content_of<std::vector<char>>(folder / name)).toGenericDict().at(key).toTensor();
}

std::vector<Tensor> values(const Model& model) {
  std::vector<Tensor> result;
  for (const auto& parameter : model.parameters()) result.push_back(parameter.value);
  return result;
}

Tensor flat(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> parts;
  for (const auto& tensor : tensors) parts.push_back(tensor.reshape({-1}));
  return torch::cat(parts);
}

double largest(const Tensor& difference) {
  return difference.abs().max().item<double>();
}

struct Derivatives {
  Tensor gradient;
  Tensor hessian;
};

// Of the sum of the cubes of the output.
Derivatives derivatives(Model& model, const Tensor& x) {
  const auto theta = values(model);
  const Tensor loss = model.forward({x}).toTensor().pow(3).sum();
  const Tensor gradient = flat(torch::autograd::grad({loss}, theta, {}, true, true));
  std::vector<Tensor> rows;
  for (std::int64_t i = 0; i < gradient.numel(); ++i) {
    rows.push_back(flat(torch::autograd::grad({gradient[i]}, theta, {}, true, false, true)));
  }
  return {gradient.detach(), torch::stack(rows)};
}

// ---- parameters

void expect_parameters_of_python(const std::string& module, const std::string& list) {
  const auto parameters = load(module)->parameters();
  std::ifstream in(folder / list);
  std::string name;
  std::int64_t size = 0;
  bool trainable = false;
  std::size_t p = 0;
  for (; in >> name >> size >> trainable; ++p) {
    ASSERT_LT(p, parameters.size());
    EXPECT_EQ(parameters[p].name, name);
    EXPECT_EQ(parameters[p].value.numel(), size) << name;
    EXPECT_EQ(parameters[p].value.requires_grad(), trainable) << name;
    EXPECT_TRUE(parameters[p].value.is_leaf()) << name;
  }
  EXPECT_GT(p, 7U);
  EXPECT_EQ(p, parameters.size());
}

TEST(TorchScriptParameters, AreThoseOfPythonsNamedParametersInItsOrder) {
  expect_parameters_of_python("nested.pt", "nested.txt");
  expect_parameters_of_python("nested_traced.pt", "nested.txt");
  expect_parameters_of_python("lstm.pt", "lstm.txt");
}

TEST(TorchScriptParameters, AreTheTensorsThatForwardReads) {
  for (const auto* name : {"nested.pt", "nested_traced.pt"}) {
    const auto model = load(name);
    const auto theta = values(*model);
    for (const auto& tensor : theta) tensor.set_requires_grad(true);
    const Tensor loss = model->forward({torch::tensor({1, 2})}).toTensor().sum();
    for (const auto& gradient : torch::autograd::grad({loss}, theta, {}, {}, false, true))
      EXPECT_TRUE(gradient.defined());
  }
}

TEST(TorchScriptParameters, OfAnLstmReachItThroughItsListOfWeights) {
  for (const auto dtype : {torch::kFloat, torch::kDouble}) {
    const auto model = load("lstm.pt");
    model->convert(dtype, torch::kCPU);
    const Tensor output = model->forward({torch::ones({2, 1, 3}, dtype)}).toTupleRef().elements()[0].toTensor();
    EXPECT_EQ(output.scalar_type(), dtype);
    for (const auto& gradient : torch::autograd::grad({output.sum()}, values(*model), {}, {}, false, true)) {
      ASSERT_TRUE(gradient.defined());
      EXPECT_GT(largest(gradient), 0);
    }
  }
}

TEST(TorchScriptParameters, OfAFrozenModuleDoNotExist) {
  EXPECT_TRUE(load("frozen.pt")->parameters().empty());
}

// ---- convert

TEST(TorchScriptConvert, LeavesIntegersSharingAndRequiresGradAsTheyAre) {
  const auto model = load("nested.pt");
  const auto before = model->parameters();
  model->convert(torch::kDouble, torch::kCPU);
  const auto after = model->parameters();
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t p = 0; p < after.size(); ++p) {
    EXPECT_EQ(after[p].value.scalar_type(), torch::kDouble) << after[p].name;
    EXPECT_EQ(after[p].value.requires_grad(), after[p].name != "fixed") << after[p].name;
    EXPECT_TRUE(after[p].value.is_leaf()) << after[p].name;
  }
  // The buffer `order` indexes another: it would be an error as a float.
  EXPECT_EQ(model->forward({torch::tensor({1, 2})}).toTensor().scalar_type(), torch::kDouble);
}

TEST(TorchScriptConvert, IsExactFromFloat32AndBack) {
  const auto model = load("nested.pt");
  const Tensor before = flat(values(*model)).detach().clone();
  model->convert(torch::kDouble, torch::kCPU);
  EXPECT_TRUE(flat(values(*model)).equal(before.to(torch::kDouble)));
  model->convert(torch::kFloat, torch::kCPU);
  EXPECT_TRUE(flat(values(*model)).equal(before));
}

// ---- device

Tensor forward_of(const char* source, torch::Device device) {
  const UnoptimisedTorchScript unoptimised;
  torch::jit::Module module("Placed");
  module.register_attribute("place", c10::DeviceObjType::get(), torch::Device(torch::kCUDA, 0));
  module.define(source);
  TorchScriptModel model(module);
  model.convert(torch::kDouble, device);
  return model.forward({torch::ones({2}, torch::TensorOptions(device).dtype(torch::kDouble))}).toTensor();
}

// Code that was made on a GPU, on a machine without one.
TEST(TorchScriptDevice, IsThatOfTheJobWhereverTensorsAreMade) {
  for (const auto* made : {"torch.ones([2], device=torch.device('cuda:0'))", "torch.ones([2], device=self.place)",
                           "x.to(torch.device('cuda'))", "x.cuda()", "x.cpu()", "torch.ones([2])",
                           "torch.ones_like(x, device=torch.device('cuda:1'))"}) {
    SCOPED_TRACE(made);
    const auto source = text("def forward(self, x):\n    return x + ", made, "\n");
    EXPECT_TRUE(forward_of(source.c_str(), torch::kCPU).equal(torch::full({2}, 2, torch::kDouble)));
  }
}

TEST(TorchScriptDevice, IsSetInsideOfBranchesAndLoops) {
  const auto* source = R"(
def forward(self, x):
    for k in range(2):
        if k == 1:
            x = x + torch.ones([2], device=torch.device('cuda:0'))
    return x
)";
  EXPECT_TRUE(forward_of(source, torch::kCPU).equal(torch::full({2}, 2, torch::kDouble)));
}

// A branch for GPUs alone is not taken on the CPU.
TEST(TorchScriptDevice, ThatIsComparedStays) {
  const auto* source = R"(
def forward(self, x):
    if x.device == torch.device('cuda:0'):
        x = x + 100
    return x + 1
)";
  EXPECT_TRUE(forward_of(source, torch::kCPU).equal(torch::full({2}, 2, torch::kDouble)));
}

TEST(TorchScriptDevice, MayBeChosenByBranches) {
  const auto* source = R"(
def forward(self, x):
    place = torch.device('cuda:0') if x.size(0) > 1 else torch.device('cuda:1')
    return x + torch.ones([2], device=place)
)";
  EXPECT_TRUE(forward_of(source, torch::kCPU).equal(torch::full({2}, 2, torch::kDouble)));
}

// ---- state

std::vector<Tensor> state_of(torch::jit::Module module) {
  std::vector<Tensor> state;
  c10::IValue(module._ivalue()).visit([&](const c10::IValue& value) {
    if (value.isTensor()) state.push_back(value.toTensor());
    return false;
  });
  return state;
}

void expect_unchanged_state_and_python_derivatives(const std::string& name) {
  const UnoptimisedTorchScript unoptimised;
  const auto module = torch::jit::load((folder / (name + ".pt")).string());
  std::vector<Tensor> before;
  for (const auto& tensor : state_of(module)) before.push_back(tensor.detach().clone());
  TorchScriptModel model(module);
  model.set_mode(Mode::train);
  const std::string file = name + "_expected.pt";
  // Python's values are those of the first call, and every call is a first one.
  for (int call = 0; call < 3; ++call) {
    const auto [gradient, hessian] = derivatives(model, expected(file, "x"));
    EXPECT_LT(largest(gradient - expected(file, "gradient")), 1e-12) << "call " << call;
    EXPECT_LT(largest(hessian - expected(file, "hessian")), 1e-12 * largest(hessian)) << "call " << call;
    EXPECT_GT(largest(hessian), 0.01);
  }
  const auto after = state_of(module);
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(after[i].equal(before[i])) << "tensor " << i;
}

TEST(TorchScriptForward, LeavesRunningStatisticsInTrainModeAndDerivativesStayValid) {
  expect_unchanged_state_and_python_derivatives("batch_norm");
}

TEST(TorchScriptForward, LeavesStateThatTheGraphKeepsAndDerivativesStayValid) {
  expect_unchanged_state_and_python_derivatives("running_scale");
}

TEST(TorchScriptForward, LeavesStateWhereItThrows) {
  const auto module = torch::jit::load((folder / "running_scale.pt").string());
  TorchScriptModel model(module);
  EXPECT_ANY_THROW(model.forward({torch::ones({2, 7}, torch::kDouble)}));
  EXPECT_EQ(module.attr("calls").toInt(), 0);
  EXPECT_TRUE(module.attr("average").toTensor().equal(torch::ones({3}, torch::kDouble)));
}

TEST(TorchScriptForward, LeavesWhatItIsGiven) {
  const auto model = load("in_place.pt");
  const Tensor x = torch::tensor({1.25, 2.25});
  for (int call = 0; call < 2; ++call) {
    EXPECT_TRUE(model->forward({x}).toTensor().equal(torch::tensor({1.0, 4.0}))) << "call " << call;
  }
  EXPECT_TRUE(x.equal(torch::tensor({1.25, 2.25})));
}

TEST(TorchScriptForward, RefusesAModuleThatChangesItsParameters) {
  expect_input_error(
      [] {
        load("own_update.pt")->forward({torch::ones({4, 3})});
      },
      {"changes its parameter 'layer.bias'", "no derivative"});
}

// ---- mode

TEST(TorchScriptMode, OfAScriptedModuleCanBeChosen) {
  const auto model = load("scripted_eval.pt");
  const Tensor x = torch::rand({4, 3});
  const auto evaluate = [&] { return model->forward({x}).toTensor(); };
  model->set_mode(Mode::train);
  EXPECT_FALSE(evaluate().equal(evaluate())) << "dropout";
  model->set_mode(Mode::eval);
  EXPECT_TRUE(evaluate().equal(evaluate()));
}

TEST(TorchScriptMode, OfATracedModuleIsFixed) {
  EXPECT_NO_THROW(load("traced_train.pt")->set_mode(Mode::train));
  EXPECT_NO_THROW(load("traced_eval.pt")->set_mode(Mode::eval));
  expect_input_error([] { load("traced_train.pt")->set_mode(Mode::eval); },
                     {"traced", "in train mode", "--mode train"});
  expect_input_error([] { load("traced_eval.pt")->set_mode(Mode::train); }, {"traced", "in eval mode", "--mode eval"});
}

TEST(TorchScriptMode, OfATracedModuleIsThatOfEveryOperatorThatHasOne) {
  for (const std::string name : {"dropped_norm", "dropped_attention", "dropped_lstm"}) {
    SCOPED_TRACE(name);
    const std::string file = text("traced_", name, "_train.pt");
    EXPECT_NO_THROW(load(file)->set_mode(Mode::train));
    expect_input_error([&] { load(file)->set_mode(Mode::eval); }, {"in train mode"});
  }
  EXPECT_NO_THROW(load("traced_instance_norm_eval.pt")->set_mode(Mode::eval));
  expect_input_error([] { load("traced_instance_norm_eval.pt")->set_mode(Mode::train); }, {"in eval mode"});
}

TEST(TorchScriptMode, DoesNotMatterToATracedModuleWithoutDropoutAndStatistics) {
  for (const auto* name : {"nested_traced.pt", "traced_no_statistics.pt", "traced_no_dropout_train.pt", "frozen.pt"}) {
    EXPECT_NO_THROW(load(name)->set_mode(Mode::train)) << name;
    EXPECT_NO_THROW(load(name)->set_mode(Mode::eval)) << name;
  }
}

// ---- the optimiser

const Tensor points = torch::linspace(-1, 1, 8, torch::kDouble).view({2, 4});

// The same in both languages: one compiled, one called operator by operator.
const char* const chain_source = R"(
def forward(self, x):
    y = torch.tanh(x) * torch.sigmoid(x * self.w)
    z = torch.layer_norm(y, [4], self.w, self.w)
    return (torch.gelu(z) * torch.tanh(y).pow(2) + y.exp() * torch.sigmoid(z)).sum()
)";
Tensor chain(const Tensor& x, const Tensor& w) {
  const Tensor y = torch::tanh(x) * torch::sigmoid(x * w);
  const Tensor z = torch::layer_norm(y, {4}, w, w);
  return (torch::gelu(z) * torch::tanh(y).pow(2) + y.exp() * torch::sigmoid(z)).sum();
}

Tensor second_derivatives(const Tensor& loss, const Tensor& w) {
  const Tensor gradient = torch::autograd::grad({loss}, {w}, {}, true, true)[0];
  std::vector<Tensor> rows;
  for (std::int64_t i = 0; i < w.numel(); ++i) {
    rows.push_back(torch::autograd::grad({gradient[i]}, {w}, {}, true)[0]);
  }
  return torch::stack(rows);
}

torch::jit::Module module_with_weight(const char* source) {
  torch::jit::Module module("Chain");
  module.register_parameter("w", torch::tensor({0.3, 0.9, -0.4, 1.2}, torch::kDouble).requires_grad_(), false);
  module.define(source);
  return module;
}

void expect_second_derivatives_of_the_chain() {
  TorchScriptModel model(module_with_weight(chain_source));
  const Tensor w = values(model)[0];
  const Tensor eager = second_derivatives(chain(points, w), w);
  for (int call = 0; call < 5; ++call) {
    const Tensor compiled = second_derivatives(model.forward({points}).toTensor(), w);
    EXPECT_LT(largest(compiled - eager), 1e-14) << "call " << call;
  }
}

TEST(TorchScriptUnoptimised, SecondDerivativesAreThoseOfTheOperatorsInEveryCall) {
  const UnoptimisedTorchScript unoptimised;
  expect_second_derivatives_of_the_chain();
}

TEST(TorchScriptUnoptimised, HoldsOnEveryThread) {
  const UnoptimisedTorchScript unoptimised;
  std::thread(expect_second_derivatives_of_the_chain).join();
}

TEST(TorchScriptUnoptimised, CodeIsRunAsItIsWritten) {
  const UnoptimisedTorchScript unoptimised;
  TorchScriptModel model(module_with_weight(chain_source));
  for (int call = 0; call < 3; ++call) model.forward({points});
  const std::string executed = torch::jit::lastExecutedOptimizedGraph()->toString();
  for (const auto* optimised : {"DifferentiableGraph", "TensorExprGroup", "prim::profile", "FusionGroup"}) {
    EXPECT_EQ(executed.find(optimised), std::string::npos) << executed;
  }
}

TEST(TorchScriptUnoptimised, SecondDerivativeEqualsItsFormula) {
  const UnoptimisedTorchScript unoptimised;
  TorchScriptModel model(
      module_with_weight("def forward(self, x):\n    return (x.tanh() * torch.sigmoid(x * self.w)).sum()\n"));
  const Tensor w = values(model)[0];
  for (int call = 0; call < 5; ++call) {
    const Tensor hessian = second_derivatives(model.forward({points}).toTensor(), w);
    for (std::int64_t i = 0; i < 4; ++i) {
      double formula = 0;
      for (std::int64_t k = 0; k < 2; ++k) {
        const double x = points[k][i].item<double>();
        const double s = 1 / (1 + std::exp(-x * w[i].item<double>()));
        formula += std::tanh(x) * x * x * s * (1 - s) * (1 - 2 * s);
      }
      EXPECT_NEAR(hessian[i][i].item<double>(), formula, 1e-14) << "call " << call;
    }
  }
}

// ---- load_model

TEST(LoadModel, NamesAFileThatIsNotThere) {
  expect_input_error([] { load("missing.pt"); }, {"missing.pt", "no such file"});
  expect_input_error([] { load_model(folder); }, {"torchscript", "is not a file"});
  expect_input_error([] { load_model(""); }, {"no such file"});
}

TEST(LoadModel, SaysHowToExportWhatTorchSaveWrote) {
  for (const auto* name : {"pickled_module.pt", "state_dict.pt", "legacy.pt"}) {
    expect_input_error([&] { load(name); }, {name, "torch.export.save(torch.export.export(model, (x,)), 'net.pt2')",
                                             "torch.jit.script(model).save('net.pt')"});
  }
}

TEST(LoadModel, DecidesByContent) {
  EXPECT_EQ(load("nested.pt")->format(), "TorchScript");
  EXPECT_EQ(load("exported.pt")->format(), "exported program");
}

TEST(LoadModel, RefusesOtherFiles) {
  for (const auto* name : {"nested.txt", "other_zip.pt"}) {
    expect_input_error([&] { load(name); }, {name, "neither an exported program", "nor a TorchScript module"});
  }
}

TEST(LoadModel, RefusesAModuleWithoutItsCode) {
  expect_input_error([] { load("no_code.pt"); }, {"no_code.pt", "no TorchScript module", "damaged"});
}

class DamagedModel : public testing::Test {
 protected:
  void write(const char* bytes, std::size_t size) {
    std::ofstream(file_, std::ios::binary | std::ios::trunc).write(bytes, static_cast<std::streamsize>(size));
  }
  ~DamagedModel() override { std::filesystem::remove(file_); }

  const std::filesystem::path file_ = [] {
    std::string name = (std::filesystem::temp_directory_path() / "damaged_model_XXXXXX").string();
    close(mkstemp(name.data()));
    return std::filesystem::path(name);
  }();
};

TEST_F(DamagedModel, IsAnInputErrorWhereverItIsCut) {
  const auto bytes = content_of(folder / "nested.pt");
  for (std::size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 97) {
    write(bytes.data(), size);
    expect_input_error([&] { load_model(file_); }, {file_.string(), "damaged"});
  }
}

TEST_F(DamagedModel, IsAnInputErrorForRandomBytes) {
  torch::manual_seed(0);
  for (int trial = 0; trial < 50; ++trial) {
    const Tensor noise = torch::randint(0, 256, {1 + trial * trial}, torch::kByte);
    write(static_cast<const char*>(noise.data_ptr()), static_cast<std::size_t>(noise.numel()));
    expect_input_error([&] { load_model(file_); }, {file_.string()});
  }
}

// ---- what would do harm

const std::filesystem::path hostile = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "hostile";

void expect_refused(const std::string& name, std::initializer_list<std::string> parts) {
  SCOPED_TRACE(name);
  expect_input_error([&] { load_model(hostile / name); }, parts);
}

TEST(HostileModel, IsRefusedByTheNameOfAnOperatorThatTouchesFiles) {
  expect_refused("reads_a_file.pt", {"reads_a_file.pt", "aten::from_file", "files"});
  expect_refused("reads_a_file_in_a_fork.pt", {"aten::from_file", "files"});
  expect_refused("writes_a_file.pt", {"writes_a_file.pt", "aten::save", "files"});
  EXPECT_FALSE(std::filesystem::exists("stolen"));
}

TEST(HostileModel, DoesNotRunWhileItIsRead) {
  expect_refused("runs_while_it_is_read.pt", {"__setstate__", "while the file is read"});
  expect_refused("runs_by_another_name.pt", {"__setstate__", "while the file is read"});
  expect_refused("reads_a_file_by_default.pt", {"aten::from_file", "files"});
  expect_refused("reads_a_file_for_a_constant.pt", {"aten::from_file", "files"});
  EXPECT_FALSE(std::filesystem::exists("stolen"));
}

TEST(HostileModel, PrintsNothing) {
  const UnoptimisedTorchScript unoptimised;
  const auto model = load_model(hostile / "prints.pt");
  testing::internal::CaptureStdout();
  model->forward({torch::ones({2, 3})});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST(HostileModel, IsNotShownByWarnings) {
  const UnoptimisedTorchScript unoptimised;
  testing::internal::CaptureStderr();
  load_model(hostile / "warns.pt")->forward({torch::ones({2, 3})});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(HostileModel, HoldsWhatItsCodeSays) {
  expect_refused("text_for_numbers.pt", {"'sizes' of Reshapes", "code says", "List[str]"});
  expect_refused("number_for_a_flag.pt", {"a Int as the attribute 'training' of Reshapes", "code says bool"});
  expect_refused("other_class.pt", {"other_class.pt", "NoSuch"});
  EXPECT_NO_THROW(load_model(hostile / "reshapes.pt")->forward({torch::ones({2, 3})}));
}

TEST(HostileModel, NestsWithinBounds) {
  expect_refused("deep_code.pt", {"an expression that nests too deeply"});
  expect_refused("long_sum.pt", {"an expression that nests too deeply"});
  expect_refused("many_signs.pt", {"an expression that nests too deeply"});
  expect_refused("deep_blocks.pt", {"blocks that nest too deeply"});
}

// LibTorch reads the table while it says what is wrong with the code; what is wrong with the table then ends the
// program.
TEST(HostileModel, HasATableOfItsSourceLines) {
  expect_refused("lines_of_no_table.pt", {"code/__torch__.py.debug_pkl is no table of the lines"});
  expect_refused("lines_outside.pt", {"code/__torch__.py.debug_pkl is no table of the lines"});
  expect_refused("good_lines.pt", {"nothing"});
}

TEST(HostileModel, CallsWithNumbersThatHaveAMeaning) {
  expect_refused("unknown_dtype.pt", {"aten::zeros", "number 996", "'dtype'"});
  EXPECT_NO_THROW(load_model(hostile / "large_dtype.pt")->forward({torch::ones({2, 3})}));
}

TEST(HostileModel, IsReadAfterItsArchiveAndPicklesWereChecked) {
  expect_refused("flipped_reshapes.pt", {"flipped_reshapes.pt", "checksum"});
  expect_refused("huge_storage.pt", {"huge_storage.pt", "2147483647 elements"});
  expect_refused("custom_class.pt", {"custom_class.pt", "outside of the tensor library"});
  expect_refused("huge_shape.pt", {"huge_shape.pt", "25769803764 bytes"});
}

// ---- message_of

template <class Action>
std::string message_from(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return message_of(error);
  }
  return "no error";
}

TEST(MessageOf, TorchScriptIsTheReasonAndTheLineOfPython) {
  const std::string message = message_from([] { load("failing.pt")->forward({torch::ones({2, 3})}); });
  EXPECT_TRUE(message.starts_with("shape '[5, 5]' is invalid for input of size 8; ")) << message;
  EXPECT_NE(message.find("`return self.layer(x).view(5, 5)`"), std::string::npos) << message;
  EXPECT_NE(message.find("loadable_files.py\", line "), std::string::npos) << message;
  EXPECT_NE(message.find("in reshaped"), std::string::npos) << message;
  for (const auto* noise : {"\n", "Traceback", "<---", "RuntimeError"})
    EXPECT_EQ(message.find(noise), std::string::npos) << message;
}

TEST(MessageOf, ATracedModuleIsTheReasonAndTheCode) {
  const std::string message = message_from([] { load("failing_traced.pt")->forward({torch::ones({2, 4})}); });
  EXPECT_TRUE(message.starts_with("mat1 and mat2 shapes cannot be multiplied (2x4 and 3x2); ")) << message;
  EXPECT_NE(message.find("torch.linear("), std::string::npos) << message;
  EXPECT_NE(message.find("loadable_files.py("), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(MessageOf, ExceptionsRaisedInPythonKeepTheirType) {
  const std::string message = message_from([] { load("raising.pt")->forward({torch::ones({2, 3})}); });
  EXPECT_TRUE(message.starts_with("ValueError: one sample at a time; ")) << message;
  EXPECT_NE(message.find("`raise ValueError(\"one sample at a time\")`"), std::string::npos) << message;
}

TEST(MessageOf, LibTorchIsTheFirstLineWithoutStack) {
  EXPECT_EQ(message_from([] { torch::ones({2, 3}).view({7}); }), "shape '[7]' is invalid for input of size 6");
  EXPECT_EQ(message_from([] { load("failing.pt")->forward({}); }).find("Exception raised"), std::string::npos);
}

TEST(MessageOf, MemoryThatRanOut) {
  EXPECT_EQ(message_of(std::bad_alloc()), "out of memory");
  EXPECT_EQ(message_from([] { torch::empty({1000000000000000}, torch::kFloat); }),
            "out of memory: could not allocate 4000000000000000 bytes");
}

TEST(MessageOf, OthersAreTheirFirstLine) {
  EXPECT_EQ(message_of(std::runtime_error("one\ntwo")), "one");
  EXPECT_EQ(message_of(std::runtime_error("")), "no reason given");
  EXPECT_EQ(message_of(std::runtime_error("no directory. This is an internal miniz error. Maybe ...")), "no directory");
  EXPECT_EQ(
      message_of(std::runtime_error("isInt() INTERNAL ASSERT FAILED at \"x.h\":1, please report a bug to PyTorch. "
                                    "Expected Int")),
      "Expected Int");
  EXPECT_EQ(message_of(InputError("a message\nof ours")), "a message\nof ours");
}

}  // namespace
}  // namespace hessian_mpi::network
