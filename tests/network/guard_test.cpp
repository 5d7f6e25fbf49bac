// Oracle: Python itself, which has evaluated the conditions that models/exported_programs.py writes.
#include "exported_program/guard.hpp"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

namespace hessian_mpi::network {
namespace {

using c10::IValue;

std::optional<std::size_t> find_input(const std::vector<std::string>& path) {
  if (path == std::vector<std::string>{"x"}) return 0;
  if (path == std::vector<std::string>{"d", "z", "0"}) return 1;
  return std::nullopt;
}

const std::vector<IValue>& inputs() {
  static const std::vector<IValue> made{torch::zeros({6, 35}), torch::zeros({4})};
  return made;
}

TEST(Guard, HoldsWherePythonFindsItTrue) {
  std::ifstream in(std::filesystem::path(HESSIAN_MPI_TEST_MODELS) / "conditions");
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const Guard guard(line.substr(2), find_input);
    EXPECT_EQ(guard.holds(inputs()), line[0] == '1') << line;
  }
  EXPECT_EQ(count, 1000);
}

TEST(Guard, RefusesWhatIsNoConditionOnInputs) {
  for (const char* code : {"", "1 <", "(1 == 1", "1 == 1)", "L['y'].size()[0] == 1", "L['d']['z'][1].size()[0] == 1",
                           "L['x'].size()[ == 1", "L['x'].shape[0] == 1", "open('file') == 1", "__import__('os')",
                           "1 == 1; 2 == 2", "L['x", "size(1) == 2"}) {
    EXPECT_THROW(Guard(code, find_input), std::invalid_argument) << code;
  }
  EXPECT_THROW(Guard(std::string(5000, '(') + "1" + std::string(5000, ')'), find_input), std::invalid_argument);
  EXPECT_THROW(Guard(std::string(19000, '-'), find_input), std::invalid_argument);
}

TEST(Guard, SaysWhereItCannotBeComputed) {
  for (const char* code : {"L['x'].size()[2] == 1", "6 % (L['x'].size()[0] - 6) == 0", "L['x'] == 1",
                           "9 ** L['x'].size()[1] == 1", "L['x'].size()[0]"}) {
    EXPECT_ANY_THROW(Guard(code, find_input).holds(inputs())) << code;
  }
}

TEST(Guard, KnowsNumbersAmongTheInputs) {
  const std::vector<IValue> numbers{torch::zeros({6, 35}), std::int64_t{5}};
  EXPECT_TRUE(Guard("L['x'].size()[0] > L['d']['z'][0]", find_input).holds(numbers));
  EXPECT_TRUE(Guard("L['x'].stride()[0] == 35 and L['x'].storage_offset() == 0", find_input).holds(numbers));
}

}  // namespace
}  // namespace hessian_mpi::network
