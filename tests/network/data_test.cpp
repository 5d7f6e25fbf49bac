#include "hessian_mpi/network/data.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "content_of.hpp"
#include "expect_error.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

const std::filesystem::path folder = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "data";

Data load(const std::string& name) {
  return load_data(folder / name);
}

// Python wrote tensors whose element i is i.
Tensor counting(at::IntArrayRef shape, torch::Dtype dtype) {
  std::int64_t count = 1;
  for (const auto extent : shape) count *= extent;
  return torch::arange(count, torch::kLong).view(shape).to(dtype);
}

void expect_equal(const Tensor& found, const Tensor& expected) {
  EXPECT_EQ(found.scalar_type(), expected.scalar_type());
  EXPECT_EQ(found.sizes(), expected.sizes());
  EXPECT_TRUE(found.is_contiguous());
  EXPECT_FALSE(found.requires_grad());
  EXPECT_TRUE(found.equal(expected)) << found << expected;
}

void expect_plain(const Data& data, torch::Dtype targets) {
  ASSERT_EQ(data.inputs.size(), 1U);
  expect_equal(data.inputs[0], counting({4, 3}, torch::kFloat));
  ASSERT_EQ(data.targets.size(), 1U);
  expect_equal(data.targets[0], counting({4}, targets));
}

// ---- HDF5

TEST(Hdf5Data, IsInputsAndTargets) {
  expect_plain(load("plain.h5"), torch::kLong);
  expect_plain(load("chunked.h5"), torch::kLong);
}

TEST(Hdf5Data, MayHaveNoTargets) {
  EXPECT_TRUE(load("no_targets.h5").targets.empty());
}

TEST(Hdf5Data, TakesSeveralInputsInTheOrderOfTheirNumbers) {
  const Data data = load("twelve_inputs.h5");
  ASSERT_EQ(data.inputs.size(), 12U);
  for (std::int64_t i = 0; i < 12; ++i) {
    expect_equal(data.inputs[static_cast<std::size_t>(i)], counting({4, 3}, torch::kFloat) + i);
  }
}

TEST(Hdf5Data, TakesEveryNumericType) {
  const std::pair<const char*, torch::Dtype> types[] = {
      {"float16", torch::kFloat}, {"float32", torch::kFloat}, {"float64", torch::kDouble}, {"int8", torch::kChar},
      {"int16", torch::kShort},   {"int32", torch::kInt},     {"int64", torch::kLong},     {"uint8", torch::kByte},
      {"uint16", torch::kInt},    {"uint32", torch::kLong},   {"uint64", torch::kLong},    {"big_f4", torch::kFloat},
      {"big_i8", torch::kLong}};
  for (const auto& [name, dtype] : types) {
    SCOPED_TRACE(name);
    expect_equal(load(text("type_", name, ".h5")).inputs[0], counting({4, 3}, dtype));
  }
  expect_equal(load("type_bool.h5").inputs[0], counting({4, 3}, torch::kLong).remainder(2).to(torch::kBool));
}

TEST(Hdf5Data, SaysWhatIsMissing) {
  expect_input_error([] { load("no_inputs.h5"); }, {"no_inputs.h5", "no `inputs`", "targets, x", "torch.save"});
  expect_input_error([] { load("wrong_members.h5"); }, {"wrong_members.h5", "'inputs'", "holds 0, b", "0, 1"});
  expect_input_error([] { load("gap.h5"); }, {"gap.h5", "holds 0, 2", "0, 1"});
  expect_input_error([] { load("empty_group.h5"); }, {"empty_group.h5", "`inputs`", "empty"});
}

TEST(Hdf5Data, RefusesWhatIsNoDatasetOfNumbers) {
  expect_input_error([] { load("strings.h5"); }, {"strings.h5", "'inputs'", "strings", "numbers"});
  expect_input_error([] { load("compound.h5"); }, {"compound.h5", "'inputs'", "floating-point numbers"});
  expect_input_error([] { load("complex.h5"); }, {"complex.h5", "'inputs'", "floating-point numbers"});
  expect_input_error([] { load("scalar.h5"); }, {"scalar.h5", "'inputs'", "scalar", "first dimension is the sample"});
  expect_input_error([] { load("null.h5"); }, {"null.h5", "'inputs'", "empty"});
  expect_input_error([] { load("group_in_group.h5"); }, {"group_in_group.h5", "inputs/0"});
  expect_input_error([] { load("targets_no_numbers.h5"); }, {"targets_no_numbers.h5", "'targets'", "y", "0, 1, ..."});
  expect_input_error([] { load("dangling.h5"); }, {"dangling.h5", "inputs"});
}

TEST(Hdf5Data, DoesNotAllocateWhatAHeaderDeclares) {
  for (const auto* name : {"huge.h5", "huge_overflow.h5", "huge_rows.h5"}) {
    expect_input_error([&] { load(name); }, {name, "'inputs'", "memory"});
  }
}

TEST(Hdf5Data, DoesNotMakeUpWhatTheFileDoesNotHold) {
  expect_input_error([] { load("never_written.h5"); }, {"never_written.h5", "'inputs'", "holds 0 bytes"});
}

// ---- torch.save

TEST(TorchSaveData, IsADictOrAPair) {
  for (const auto* name : {"dict.pt", "tuple.pt", "list.pt"}) {
    SCOPED_TRACE(name);
    expect_plain(load(name), torch::kInt);
  }
}

TEST(TorchSaveData, MayHaveSeveralInputs) {
  for (const auto* name : {"two_inputs.pt", "two_inputs_tuple.pt"}) {
    SCOPED_TRACE(name);
    const Data data = load(name);
    ASSERT_EQ(data.inputs.size(), 2U);
    expect_equal(data.inputs[0], counting({4, 3}, torch::kFloat));
    expect_equal(data.inputs[1], counting({4, 2}, torch::kLong));
    expect_equal(data.targets[0], counting({4}, torch::kInt));
  }
}

TEST(LoadData, TakesSeveralTargets) {
  for (const auto* name : {"two_targets.h5", "two_targets.pt", "two_targets_pair.pt"}) {
    SCOPED_TRACE(name);
    const Data data = load(name);
    ASSERT_EQ(data.targets.size(), 2U);
    expect_equal(data.inputs[0], counting({4, 3}, torch::kFloat));
    expect_equal(data.targets[0], counting({4}, torch::kInt));
    expect_equal(data.targets[1], counting({4, 2}, torch::kDouble));
  }
  expect_plain(load("targets_group.h5"), torch::kLong);
}

TEST(LoadData, TakesInputsByTheNamesOfArguments) {
  for (const auto* name : {"named_inputs.h5", "named_inputs.pt"}) {
    SCOPED_TRACE(name);
    const Data data = load(name);
    ASSERT_EQ(data.input_names.size(), 2U);
    for (const auto& names : {std::vector<std::string>{"x", "mask"}, std::vector<std::string>{"X", "Mask", "more"}}) {
      const Data ordered = data.in_order_of(names);
      ASSERT_EQ(ordered.inputs.size(), 2U);
      expect_equal(ordered.inputs[0], counting({4, 3}, torch::kFloat));
      expect_equal(ordered.inputs[1], counting({4, 3}, torch::kFloat) + 100);
      ASSERT_EQ(ordered.targets.size(), 1U);
    }
    expect_equal(data.in_order_of({"mask", "x"}).inputs[1], counting({4, 3}, torch::kFloat));
    expect_input_error([&] { (void)data.in_order_of({"x"}); }, {"the model takes x", "takes no 'mask'"});
    expect_input_error([&] { (void)data.in_order_of({"x", "scale"}); }, {"the data have no 'scale'", "takes x, scale"});
    expect_input_error([&] { (void)data.in_order_of({}); }, {"the model takes nothing"});
  }
  const Data plain = load("two_inputs.pt");
  expect_equal(plain.in_order_of({"whatever"}).inputs[1], counting({4, 2}, torch::kLong));
  expect_input_error([] { load("numbered_dict.pt"); }, {"numbered_dict.pt", "`inputs`", "no names"});
}

TEST(TorchSaveData, MayHaveNoTargets) {
  EXPECT_TRUE(load("no_targets.pt").targets.empty());
  EXPECT_TRUE(load("targets_none.pt").targets.empty());
}

TEST(TorchSaveData, KeepsNoTraceOfHowItWasMade) {
  const Data differentiable = load("with_gradient.pt");
  expect_equal(differentiable.inputs[0], counting({4, 3}, torch::kFloat));
  expect_equal(differentiable.targets[0], counting({4, 3}, torch::kFloat));
  const Data views = load("views.pt");
  expect_equal(views.inputs[0], counting({3, 4}, torch::kFloat).t().contiguous());
  expect_equal(views.targets[0], counting({4}, torch::kInt) + 4);
}

TEST(TorchSaveData, MayBeOfHalfPrecision) {
  const Data data = load("half.pt");
  expect_equal(data.inputs[0], counting({4, 3}, torch::kBFloat16));
  expect_equal(data.targets[0], counting({4, 3}, torch::kHalf));
  expect_equal(data.converted(torch::kDouble).inputs[0], counting({4, 3}, torch::kDouble));
}

TEST(TorchSaveData, SaysWhatIsWrong) {
  expect_input_error([] { load("no_inputs.pt"); }, {"no_inputs.pt", "no `inputs`", "torch.save({'inputs': x"});
  expect_input_error([] { load("tensor.pt"); }, {"tensor.pt", "neither a dict nor a pair"});
  expect_input_error([] { load("triple.pt"); }, {"triple.pt", "neither a dict nor a pair"});
  expect_input_error([] { load("scalar.pt"); }, {"scalar.pt", "`inputs`", "scalar"});
  expect_input_error([] { load("empty_list.pt"); }, {"empty_list.pt", "`inputs`", "empty"});
  expect_input_error([] { load("string.pt"); }, {"string.pt", "`inputs`", "str", "tensor"});
  expect_input_error([] { load("sparse.pt"); }, {"sparse.pt", "dense"});
  expect_input_error([] { load("meta.pt"); }, {"meta.pt"});
  expect_input_error([] { load("expanded.pt"); }, {"expanded.pt", "memory"});
  expect_input_error([] { load("legacy.pt"); }, {"legacy.pt", "PyTorch 1.6 or later"});
}

TEST(TorchSaveData, RefusesObjectsThatNeedPython) {
  for (const auto* name : {"dataset.pt", "numpy.pt", "custom.pt"}) {
    expect_input_error([&] { load(name); }, {name, "tensors in dicts, tuples and lists", "torch.save({'inputs': x"});
  }
}

// ---- both

TEST(LoadData, WantsTheSameNumberOfSamplesEverywhere) {
  for (const auto* name : {"unequal.h5", "unequal.pt"}) {
    expect_input_error([&] { load(name); }, {name, "inputs 4, targets 3", "first dimension"});
  }
  expect_input_error([] { load("unequal_targets.h5"); }, {"unequal_targets.h5", "inputs 4, targets 4, 3"});
}

TEST(LoadData, WantsASample) {
  for (const auto* name : {"no_samples.h5", "no_samples.pt"}) {
    expect_input_error([&] { load(name); }, {name, "no sample"});
  }
}

TEST(LoadData, NamesAFileThatIsNotThere) {
  expect_input_error([] { load("missing.h5"); }, {"missing.h5", "no such file"});
  expect_input_error([] { load_data(folder); }, {"data", "is not a file"});
}

// ---- what would do harm

const std::filesystem::path hostile = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "hostile";

void expect_refused(const std::string& name, std::initializer_list<std::string> parts) {
  SCOPED_TRACE(name);
  expect_input_error([&] { load_data(hostile / name); }, parts);
}

TEST(HostileData, IsNotFollowedIntoOtherFiles) {
  expect_refused("external_link.h5", {"'inputs' of '", "external_link.h5", "link to another file ('other_file.h5')"});
  expect_refused("external_group.h5", {"'inputs/0' of '", "link to another file ('other_file.h5')"});
  expect_refused("link_to_a_link.h5", {"'inputs' of '", "link to another file ('other_file.h5')"});
  expect_refused("external_targets.h5", {"'targets' of '", "link to another file ('other_file.h5')"});
  expect_refused("external_storage.h5", {"dataset 'inputs' of '", "external_storage.h5", "values in other files"});
  expect_refused("virtual_dataset.h5", {"dataset 'inputs' of '", "virtual_dataset.h5", "values in other files"});
}

TEST(HostileData, MayHaveLinksInside) {
  expect_plain(load_data(hostile / "link_inside.h5"), torch::kLong);
  expect_refused("link_to_itself.h5", {"link_to_itself.h5", "inputs"});
}

TEST(HostileData, SaysWhereNaNIs) {
  expect_refused("nan_data.h5", {"dataset 'inputs' of '", "nan_data.h5", "NaN in 2 of 12 values (at [1, 2], [3, 0])"});
  expect_refused("nan_data.pt", {"`inputs` in '", "nan_data.pt", "NaN in 2 of 12 values (at [1, 2], [3, 0])"});
  expect_refused("nan_targets.pt", {"`targets` in '", "nan_targets.pt", "NaN in 2 of 12 values"});
}

TEST(HostileData, HasAddressesInTheFile) {
  expect_refused("no_tree.h5", {"no_tree.h5", "cannot be read"});
}

TEST(HostileData, HasAsManyBytesAsItsShapeNeeds) {
  expect_refused("short_compact.h5", {"short_compact.h5", "'inputs'", "needs 48 bytes", "has 8"});
  expect_refused("empty_compact.h5", {"empty_compact.h5", "'inputs'", "needs 48 bytes", "has 0"});
}

// A mask may be infinite; whether a loss comes of it is seen when it is computed.
TEST(HostileData, MayHoldInfinity) {
  EXPECT_EQ(load_data(hostile / "infinite_data.h5").inputs[0].isinf().sum().item<std::int64_t>(), 1);
  EXPECT_EQ(load_data(hostile / "infinite_data.pt").inputs[0].isinf().sum().item<std::int64_t>(), 1);
}

TEST(HostileData, NamesInTheFileCannotBreakTheMessage) {
  expect_refused("odd_names.h5", {"no `inputs`", "it holds: inputs  [31m"});
}

TEST(HostileData, IsReadAfterItsArchiveAndPickleWereChecked) {
  expect_refused("flipped_good_data.pt", {"flipped_good_data.pt", "member 'good_data/data/0'", "checksum"});
  expect_refused("huge_member_good_data.pt", {"huge_member_good_data.pt", "2147483646 bytes"});
  expect_refused("huge_storage_data.pt", {"huge_storage_data.pt", "2147483647 elements"});
  expect_plain(load_data(hostile / "good_data.pt"), torch::kLong);
}

class DamagedData : public testing::Test {
 protected:
  // A file that makes the reader allocate without bounds fails its own test, and does not take the machine down.
  static void SetUpTestSuite() {
#ifndef __SANITIZE_ADDRESS__
    constexpr rlim_t most = rlim_t{6} << 30;
    rlimit limit{};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = std::min(limit.rlim_max, most);
    setrlimit(RLIMIT_AS, &limit);
#endif
  }
  void write(const char* bytes, std::size_t size) {
    std::ofstream(file_, std::ios::binary | std::ios::trunc).write(bytes, static_cast<std::streamsize>(size));
  }
  ~DamagedData() override {
    std::filesystem::remove(file_);
  }

  const std::filesystem::path file_ = [] {
    std::string name = (std::filesystem::temp_directory_path() / "damaged_data_XXXXXX").string();
    close(mkstemp(name.data()));
    return std::filesystem::path(name);
  }();
};

TEST_F(DamagedData, IsAnInputErrorWhereverItIsCut) {
  for (const auto* name : {"plain.h5", "chunked.h5", "tuple.pt"}) {
    const auto bytes = content_of(folder / name);
    ASSERT_GT(bytes.size(), 1000U);
    for (std::size_t size = 0; size < bytes.size(); size += 7) {
      SCOPED_TRACE(text(name, " cut to ", size));
      write(bytes.data(), size);
      expect_input_error([&] { load_data(file_); }, {file_.string()});
    }
  }
}

TEST_F(DamagedData, IsAnInputErrorForRandomBytes) {
  torch::manual_seed(0);
  for (int trial = 0; trial < 50; ++trial) {
    const Tensor noise = torch::randint(0, 256, {1 + trial * trial}, torch::kByte);
    write(static_cast<const char*>(noise.data_ptr()), static_cast<std::size_t>(noise.numel()));
    expect_input_error([&] { load_data(file_); }, {file_.string(), "neither"});
  }
}

// Bytes may be changed without anything being wrong for the reader; what must not happen is a crash, or another error.
TEST_F(DamagedData, IsReadOrIsAnInputErrorWhereBytesAreWrong) {
  torch::manual_seed(0);
  int errors = 0;
  for (const auto* name : {"plain.h5", "chunked.h5", "tuple.pt", "dict.pt"}) {
    const auto whole = content_of(folder / name);
    for (int trial = 0; trial < 300; ++trial) {
      auto bytes = whole;
      for (int k = 0; k < 4; ++k) {
        const auto at = torch::randint(0, static_cast<std::int64_t>(bytes.size()), {1}).item<std::int64_t>();
        bytes[static_cast<std::size_t>(at)] = static_cast<char>(torch::randint(0, 256, {1}).item<std::int64_t>());
      }
      write(bytes.data(), bytes.size());
      try {
        load_data(file_);
      } catch (const InputError&) {
        ++errors;
      }
    }
  }
  EXPECT_GT(errors, 100);
}

TEST(Data, BatchesAreViewsOfTheSamples) {
  const Data data{{counting({5, 2}, torch::kFloat), counting({5}, torch::kLong)}, {counting({5, 1}, torch::kDouble)}};
  EXPECT_EQ(data.samples(), 5);
  const Data batch = data.batch(1, 4);
  EXPECT_EQ(batch.samples(), 3);
  EXPECT_TRUE(batch.inputs[0].equal(torch::tensor({2.F, 3.F, 4.F, 5.F, 6.F, 7.F}).view({3, 2})));
  EXPECT_TRUE(batch.inputs[1].equal(torch::tensor({1, 2, 3})));
  EXPECT_TRUE(batch.targets[0].equal(torch::tensor({1., 2., 3.}, torch::kDouble).view({3, 1})));
  EXPECT_TRUE(batch.inputs[0].is_alias_of(data.inputs[0]));
  EXPECT_TRUE(Data({data.inputs, {}}).batch(0, 2).targets.empty());
}

TEST(Data, ConvertsFloatingNumbersOnly) {
  const Data data{{counting({2, 2}, torch::kFloat), counting({2}, torch::kInt), counting({2}, torch::kBool)},
                  {counting({2}, torch::kHalf)}};
  const Data converted = data.converted(torch::kDouble);
  EXPECT_EQ(converted.inputs[0].scalar_type(), torch::kDouble);
  EXPECT_EQ(converted.inputs[1].scalar_type(), torch::kInt);
  EXPECT_EQ(converted.inputs[2].scalar_type(), torch::kBool);
  EXPECT_EQ(converted.targets[0].scalar_type(), torch::kDouble);
  EXPECT_TRUE(converted.inputs[0].equal(counting({2, 2}, torch::kDouble)));
}

}  // namespace
}  // namespace hessian_mpi::network
