#include "hessian_mpi/network/loss_options.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <fstream>

#include "expect_error.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::network {
namespace {

const std::vector<std::string> all_names{
    "weight",     "pos_weight", "ignore_index", "label_smoothing", "beta",   "delta", "eps",
    "log_target", "log_input",  "full",         "reduction",       "margin", "p",     "swap"};

LossArguments arguments(const std::vector<std::string>& words) {
  return loss_arguments("some_loss", all_names, words);
}

void expect_refused(const std::vector<std::string>& words, std::initializer_list<std::string> parts) {
  const testing::ScopedTrace trace(__FILE__, __LINE__, words.back());
  expect_input_error([&] { arguments(words); }, parts);
}

class NumbersInAFile : public testing::Test {
 protected:
  std::string written(const std::string& content) const {
    std::ofstream(path()) << content;
    return path();
  }
  std::string path() const { return (folder_ / "numbers.txt").string(); }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

TEST(LossOptions, HaveTheDefaultsOfPyTorch) {
  const auto none = arguments({});
  EXPECT_FALSE(none.weight.defined() || none.pos_weight.defined());
  EXPECT_EQ(none.ignore_index, -100);
  EXPECT_EQ(none.label_smoothing, 0);
  EXPECT_EQ(none.beta, 1);
  EXPECT_EQ(none.delta, 1);
  EXPECT_FALSE(none.eps || none.margin || none.p) << "which differ from loss to loss";
  EXPECT_TRUE(none.log_input);
  EXPECT_FALSE(none.log_target || none.full || none.batchmean);
}

TEST(LossOptions, AreReadByTheirNames) {
  const auto some =
      arguments({"weight=1,2.5,-3e-2", "pos_weight=4", "ignore_index=255", "label_smoothing=0.1", "beta=0", "delta=0.5",
                 "eps=1e-6", "log_target=True", "log_input=false", "full=1", "reduction=batchmean"});
  EXPECT_TRUE(some.weight.equal(torch::tensor({1.0, 2.5, -0.03}, torch::kFloat64)));
  EXPECT_TRUE(some.pos_weight.equal(torch::tensor({4.0}, torch::kFloat64)));
  EXPECT_EQ(some.ignore_index, 255);
  EXPECT_EQ(some.label_smoothing, 0.1);
  EXPECT_EQ(some.beta, 0);
  EXPECT_EQ(some.delta, 0.5);
  EXPECT_EQ(some.eps, 1e-6);
  EXPECT_TRUE(some.log_target && some.full && some.batchmean);
  EXPECT_FALSE(some.log_input);
}

TEST(LossOptions, RefuseValuesOfAnotherKindOrOutOfRange) {
  expect_refused({"weight=1,two,3"}, {"'weight=1,two,3'", "'two'", "1,2,0.5"});
  expect_refused({"weight="}, {"'weight='", "no numbers"});
  expect_refused({"weight=1,,2"}, {"''", "not a number"});
  expect_refused({"weight=1,nan"}, {"'nan'", "not a number"});
  expect_refused({"ignore_index=1.5"}, {"'1.5'", "whole number"});
  expect_refused({"label_smoothing=1.5"}, {"out of its range", "from 0 to 1"});
  expect_refused({"label_smoothing=-0.1"}, {"out of its range"});
  expect_refused({"label_smoothing=inf"}, {"'inf'"});
  expect_refused({"beta=-1"}, {"at least 0"});
  expect_refused({"delta=0"}, {"above 0"});
  expect_refused({"log_target=yes"}, {"'yes'", "true or false"});
  expect_refused({"reduction=mean"}, {"'mean'", "batchmean", "--reduction"});
  expect_refused({"weight"}, {"'weight'", "NAME=VALUE"});
  expect_refused({"=1"}, {"NAME=VALUE"});
  expect_refused({"beta=1", "beta=2"}, {"'beta=2'", "again"});
}

TEST(LossOptions, NameThoseThatTheLossHas) {
  expect_input_error(
      [] {
        loss_arguments("nll", {"weight", "ignore_index"}, {"beta=1"});
      },
      {"'beta=1'", "'nll'", "weight, ignore_index"});
  expect_input_error([] { loss_arguments("nll", {"weight", "ignore_index"}, {"size_average=1"}); }, {"'nll'"});
}

TEST_F(NumbersInAFile, AreSeparatedByCommasAndWhiteSpace) {
  for (const auto* content : {"1,2,3", "1\n2\n3\n", " 1, 2,\n3\n", "1.0e0 2\t3"}) {
    const auto some = arguments({"weight=@" + written(content)});
    EXPECT_TRUE(some.weight.equal(torch::tensor({1.0, 2.0, 3.0}, torch::kFloat64))) << content;
  }
  EXPECT_EQ(text_of_loss_options({"weight=@" + written("1\n0.5\n")}), "weight=1,0.5");
}

TEST_F(NumbersInAFile, AreNamedWhereTheyAreWrong) {
  expect_refused({"weight=@" + path()}, {"numbers.txt", "not a file"});
  expect_refused({"weight=@" + written("")}, {"numbers.txt", "empty"});
  expect_refused({"weight=@" + written("1 x")}, {"numbers.txt", "'x'"});
  expect_refused({"weight=@"}, {"not a file"});
}

TEST(TextOfLossOptions, IsTheSameForTheSameArguments) {
  EXPECT_EQ(text_of_loss_options({}), "");
  EXPECT_EQ(text_of_loss_options({"weight=1,2.50", "label_smoothing=0.10", "ignore_index=7", "full=1"}),
            "full=true ignore_index=7 label_smoothing=0.1 weight=1,2.5");
  EXPECT_EQ(text_of_loss_options({"reduction=batchmean", "log_target=False"}), "log_target=false reduction=batchmean");
}

TEST(TextOfLossOptions, IsShortForLongTensorsAndTellsThemApart) {
  const auto text_with = [](const char* last) {
    std::string word = "weight=";
    for (int k = 0; k < 1000; ++k) word += "0.125,";
    return text_of_loss_options({word + last});
  };
  EXPECT_LT(text_with("1").size(), 100U);
  EXPECT_NE(text_with("1").find("1001 numbers"), std::string::npos) << text_with("1");
  EXPECT_NE(text_with("1"), text_with("2"));
  EXPECT_EQ(text_with("1"), text_with("1.0"));
}

}  // namespace
}  // namespace hessian_mpi::network
