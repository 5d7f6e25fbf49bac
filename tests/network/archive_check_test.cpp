#include "archive_check.hpp"

#include <caffe2/serialize/inline_container.h>
#include <gtest/gtest.h>

#include "expect_error.hpp"

namespace hessian_mpi::network {
namespace {

const std::filesystem::path folder = std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "hostile";

void check_data_pickle(const std::string& name) {
  caffe2::serialize::PyTorchStreamReader archive((folder / name).string());
  check_pickle(archive, "data.pkl", "data");
}

void expect_error_in_archive(const std::string& name, std::initializer_list<std::string> parts) {
  SCOPED_TRACE(name);
  expect_input_error([&] { check_archive(folder / name); }, parts);
}

void expect_error_in_pickle(const std::string& name, std::initializer_list<std::string> parts) {
  SCOPED_TRACE(name);
  check_archive(folder / name);
  expect_input_error([&] { check_data_pickle(name); }, parts);
}

TEST(CheckArchive, AcceptsWhatPyTorchAndOthersWrite) {
  for (const auto* name : {"reshapes.pt", "linear.pt2", "good_data.pt", "rewritten.pt", "compressed_by_zip.pt"}) {
    SCOPED_TRACE(name);
    EXPECT_NO_THROW(check_archive(folder / name));
  }
}

TEST(CheckArchive, FindsAByteThatIsNotWhatWasWritten) {
  expect_error_in_archive("flipped_reshapes.pt", {"is damaged", "member 'reshapes/data/1'", "checksum"});
  expect_error_in_archive("flipped_linear.pt2", {"is damaged", "member 'linear/data/weights/weight_0'", "checksum"});
  expect_error_in_archive("flipped_good_data.pt", {"is damaged", "member 'good_data/data/0'", "checksum"});
  expect_error_in_archive("flipped_code.pt", {"is damaged", "code/__torch__.py'", "checksum"});
}

TEST(CheckArchive, BelievesNoSizesThatTheFileDoesNotHave) {
  for (const auto* name : {"huge_member_reshapes.pt", "huge_member_linear.pt2", "huge_member_good_data.pt"}) {
    expect_error_in_archive(name, {"is damaged", "member '", "2147483646 bytes"});
  }
  expect_error_in_archive("inflated.pt", {"is damaged", "declared to have"});
}

TEST(CheckArchive, RefusesNamesThatLeadOut) {
  expect_error_in_archive("member_upwards.pt2", {"'linear/../../weights'", "leads out of the archive"});
  expect_error_in_archive("member_absolute.pt2", {"'/linear/data/weights/weight_0'", "leads out of the archive"});
  expect_error_in_archive("member_with_newline.pt2", {"'linear/data /weight'", "control characters"});
  expect_error_in_archive("member_twice.pt2", {"weight_0' twice"});
}

TEST(CheckPickle, AcceptsWhatPyTorchWrites) {
  EXPECT_NO_THROW(check_data_pickle("reshapes.pt"));
  EXPECT_NO_THROW(check_data_pickle("good_data.pt"));
}

TEST(CheckPickle, FindsTensorsThatDeclareMoreThanTheirRecordHas) {
  expect_error_in_pickle("huge_storage.pt", {"2147483647 elements of 4 bytes", "data/1 has 24 bytes"});
  expect_error_in_pickle("negative_storage.pt", {"-1 elements"});
  expect_error_in_pickle("short_storage.pt", {"6 elements of 4 bytes", "data/1 has 8 bytes"});
  expect_error_in_pickle("no_storage.pt", {"has no data/1"});
}

TEST(CheckPickle, FindsWhatTheMachineCannotDo) {
  expect_error_in_pickle("empty_stack.pt", {"damaged"});
  expect_error_in_pickle("below_the_mark.pt", {"takes what it never put there"});
  expect_error_in_pickle("no_mark.pt", {"takes what it never put there"});
  expect_error_in_pickle("odd_items.pt", {"a key without a value"});
  expect_error_in_pickle("unknown_memo.pt", {"never remembered"});
  expect_error_in_pickle("huge_memo.pt", {"remembers what it does not have"});
  expect_error_in_pickle("huge_text.pt", {"ends early"});
  expect_error_in_pickle("call_of_a_number.pt", {"calls what is no function"});
  expect_error_in_pickle("unknown_operation.pt", {"only Python can read"});
}

TEST(CheckPickle, FindsNestingWithoutBounds) {
  expect_error_in_pickle("own_element.pt", {"holds itself"});
  expect_error_in_pickle("nested_lists.pt", {"nests too deeply"});
  expect_error_in_pickle("nested_type.pt", {"too many brackets"});
}

TEST(CheckPickle, RefusesObjectsOfOtherLibraries) {
  expect_error_in_pickle("custom_class.pt", {"LinearPackedParamsBase", "outside of the tensor library"});
  expect_error_in_pickle("remote_reference.pt", {"torch.distributed.rpc.rref", "another process"});
  expect_error_in_pickle("quantized.pt", {"quantized"});
}

}  // namespace
}  // namespace hessian_mpi::network
