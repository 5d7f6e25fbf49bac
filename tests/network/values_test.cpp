// Files that tests/models/loadable_files.py has written, and damaged ones. Oracle: the other network in Python.
#include "values.hpp"

#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/types.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "content_of.hpp"
#include "expect_error.hpp"
#include "hessian_mpi/network/load_model.hpp"
#include "torchscript_model.hpp"

namespace hessian_mpi::network {
namespace {

const std::filesystem::path folder = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "values";

std::unique_ptr<Model> load(const std::string& name, torch::Dtype dtype = torch::kFloat64) {
  static const UnoptimisedTorchScript unoptimised;
  auto model = load_model(folder / name);
  model->convert(dtype, torch::kCPU);
  return model;
}

torch::Tensor expected(const std::string& key) {
  return torch::jit::pickle_load(content_of<std::vector<char>>(folder / "expected.pt"))
      .toGenericDict()
      .at(key)
      .toTensor();
}

double error_of(Model& model) {
  const auto output = model.forward({expected("words")}).toTensor();
  return (output - expected("output")).abs().max().item<double>();
}

void expect_says(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << part << "\nis not in: " << message;
}

void expect_refused(const std::string& file, std::initializer_list<std::string> parts,
                    std::optional<Precision> given = Precision::float64) {
  SCOPED_TRACE(file);
  for (const auto* name : {"nested.pt", "nested.pt2"}) {
    const auto model = load(name);
    expect_input_error([&] { set_values(*model, folder / file, given); }, parts);
  }
}

class Values : public testing::TestWithParam<const char*> {};

TEST_P(Values, TakeThePlaceOfTheModels) {
  for (const auto* name : {"nested.pt", "nested.pt2"}) {
    SCOPED_TRACE(name);
    const auto model = load(name);
    EXPECT_GT(error_of(*model), 0.1);
    set_values(*model, folder / GetParam(), std::nullopt);
    EXPECT_LT(error_of(*model), 1e-12);
    for (const auto& parameter : model->parameters()) {
      EXPECT_EQ(parameter.value.requires_grad(), parameter.name != "fixed") << parameter.name;
      EXPECT_TRUE(parameter.value.is_leaf()) << parameter.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Files, Values,
                         testing::Values("state_dict.pt", "under_state_dict.pt", "under_model_state_dict.pt",
                                         "under_model.pt", "data_parallel.pt", "compiled.pt", "parameters.pt",
                                         "bfloat16.pt", "views.pt", "values.safetensors", "bfloat16.safetensors"));

TEST(Values, SayWhatTheUserMayNotExpect) {
  const auto notes_on = [](const std::string& file) {
    std::string all;
    for (const auto& note : set_values(*load("nested.pt"), folder / file, std::nullopt)) all += note + '\n';
    return all;
  };
  EXPECT_EQ(notes_on("state_dict.pt"), "");
  EXPECT_EQ(notes_on("values.safetensors"), "");
  expect_says(notes_on("under_model.pt"), "under its key 'model'");
  expect_says(notes_on("compiled.pt"), "'module._orig_mod.', which was taken off");
  expect_says(notes_on("without_buffers.pt"), "lack the buffers 'order', 'shift'");
}

TEST(Values, OfAnotherNetworkAreRefusedByName) {
  expect_refused("missing.pt", {"missing.pt' lacks 'scale', 'fixed' of the model"});
  expect_refused("unexpected.pt", {"has 'head.weight', which the model has not"});
  expect_refused("shape.pt", {"'scale' has the shape [8], and the model's is [7]"});
  expect_refused("kind.pt", {"'order' is float32, and the model's is int64"});
  expect_refused("untied.pt", {"has two values for 'encoder.weight' and 'decoder.weight'"});
  expect_input_error([] { set_values(*load("nested.pt2"), folder / "without_buffers.pt", std::nullopt); },
                     {"lacks 'order', 'shift'"});
}

TEST(Values, AreNotRoundedUnasked) {
  const auto model = load("nested.pt", torch::kFloat32);
  expect_input_error([&] { set_values(*model, folder / "float64.pt", std::nullopt); },
                     {"'scale' is float64, and the model's is float32", "--dtype float64"});
  EXPECT_NO_THROW(set_values(*model, folder / "float64.pt", Precision::float32));
  EXPECT_NO_THROW(set_values(*load("nested.pt"), folder / "float64.pt", Precision::float64));
}

TEST(Values, OfFilesThatHoldSomethingElseAreRefused) {
  expect_refused("code.pt", {"'scale', which cannot be read: it is no plain tensor"});
  expect_refused("sparse.pt", {"'scale', which cannot be read"});
  expect_refused("expanded.pt", {"'scale'", "expanded", "clone()"});
  expect_refused("module.pt", {"holds no state_dict", "torch.save(net.state_dict(), FILE)"});
  expect_refused("list.pt", {"holds no state_dict"});
  expect_refused("other_key.pt", {"its keys are 'epoch', 'weights'", "torch.save(checkpoint[KEY], FILE)"});
  expect_refused("legacy.pt", {"before PyTorch 1.6"});
  expect_refused("nested.pt", {"is a network or some other archive", "torch.save(net.state_dict(), FILE)"});
  expect_refused("nested.pt2", {"is a network or some other archive"});
  expect_refused("beyond.pt", {"need more bytes than the file has"});
  expect_refused("negative.pt", {"do not fit each other"});
  expect_refused("nowhere.pt", {"no such file"});
  expect_refused(".", {"is not a file"});
  EXPECT_FALSE(std::filesystem::exists("code_of_a_pickle_was_run"));
}

// --- safetensors ---------------------------------------------------------------------------------------------------

std::string length_of(std::uint64_t number) {
  std::string bytes;
  for (int k = 0; k < 8; ++k) bytes.push_back(static_cast<char>((number >> (8 * k)) & 0xff));
  return bytes;
}

std::string error_with(const std::string& content) {
  const auto file = std::filesystem::path(testing::TempDir()) / "hostile.safetensors";
  std::ofstream(file, std::ios::binary) << content;
  std::string error = "(loaded)";
  try {
    load_state_dict(file);
  } catch (const InputError& refused) {
    error = refused.what();
  }
  std::filesystem::remove(file);
  return error;
}

// A header, and so many bytes behind it.
std::string error_of_header(const std::string& header, std::size_t bytes = 8) {
  return error_with(length_of(header.size()) + header + std::string(bytes, '\1'));
}

TEST(Safetensors, AreReadAsTheyAreWritten) {
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"), "(loaded)");
  EXPECT_EQ(error_of_header(R"({"a":{"dtype":"BOOL","shape":[2,4],"data_offsets":[0,8]}}   )"), "(loaded)");
  EXPECT_EQ(error_of_header(R"({"b":{"dtype":"F64","shape":[],"data_offsets":[0,8]},
                                "a":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}})"),
            "(loaded)");
}

TEST(Safetensors, AreBelievedNoPlaceOrSizeThatTheFileDoesNotHave) {
  const auto places = [](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"I8","shape":[4],"data_offsets":)" + a +
           R"(},"b":{"dtype":"I8","shape":[4],"data_offsets":)" + b + "}}";
  };
  EXPECT_EQ(error_of_header(places("[0,4]", "[4,8]")), "(loaded)");
  expect_says(error_of_header(places("[0,4]", "[2,6]")), "tensor 'b' has the bytes 2 to 6");
  expect_says(error_of_header(places("[0,4]", "[5,9]"), 9), "where those before it end with 4");
  expect_says(error_of_header(places("[0,4]", "[4,8]"), 9), "end with byte 8, and the file has 9");
  expect_says(error_of_header(places("[0,4]", "[4,8]"), 7), "the file has 7");
  expect_says(error_of_header(places("[0,4]", "[18446744073709551612,18446744073709551615]")), "'b'");
  expect_says(error_of_header(places("[0,4]", "[4,18446744073709551616]")), "not a size or a place");
  expect_says(error_of_header(places("[0,4]", "[-4,0]")), "not a size or a place: -4");
  expect_says(error_of_header(places("[0,4]", "[8,4]")), "its place is 8 to 4");
  expect_says(error_of_header(R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8]}})"),
              "too large to be true");
  expect_says(error_of_header(R"({"a":{"dtype":"F64","shape":[9223372036854775808,0],"data_offsets":[0,0]}})", 0),
              "too large to be true");
  expect_says(error_of_header(R"({"a":{"dtype":"F64","shape":[2],"data_offsets":[0,8]}})"), "takes 16 bytes");
}

TEST(Safetensors, AreRefusedWhereTheHeaderIsNone) {
  expect_says(error_with(""), "is neither a file of torch.save nor safetensors");
  expect_says(error_with(length_of(1000) + "{}"), "ends within its header");
  expect_says(error_with(length_of(~std::uint64_t{0}) + "{}"), "is neither");
  expect_says(error_of_header(R"({"a":)"), "not what safetensors writes");
  expect_says(error_of_header(R"({"a":[]})"), "not what safetensors writes");
  expect_says(error_of_header(R"({"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})"), "the type F8_E4M3");
  expect_says(error_of_header(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},)"
                              R"("a":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}})"),
              "two tensors of the name 'a'");
  std::string deep = R"({"__metadata__":)";
  for (int k = 0; k < 100000; ++k) deep += "[";
  expect_says(error_of_header(deep), "nests too deeply");
}

}  // namespace
}  // namespace hessian_mpi::network
