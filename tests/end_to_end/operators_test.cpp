// The program on networks of tests/models/operators.py whose operators it replaces, or whose layers are random or keep
// statistics: on one rank and on several. All of these networks are in tests/operators_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <ostream>
#include <string>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

struct Case {
  const char* folder;
  const char* announced;  // on stderr; nothing else is, where empty
  friend std::ostream& operator<<(std::ostream& out, const Case& one) { return out << one.folder; }
};

Words arguments_of(const std::string& folder, const std::string& options) {
  return Words{"--threads", "1"} + options_in(models() / "operators" / folder, options);
}

// Networks in both formats, and numbers of ranks.
const Words formats{"options", "options2"};
constexpr std::array numbers_of_ranks{1, 3};

class Operators : public testing::TestWithParam<Case> {};

TEST_P(Operators, AreRightOnAnyNumberOfRanksAndAnnounceWhatIsReplaced) {
  const auto& [name, announced] = GetParam();
  Batch batch;
  std::map<std::string, std::string> models_before;  // by their files
  for (const auto& format : formats) {
    const auto arguments = arguments_of(name, format) + Words{"--output", "result.h5"};
    const auto model = *std::next(std::find(arguments.begin(), arguments.end(), "--model"));
    models_before[model] = content_of(model);
    for (const int ranks : numbers_of_ranks) batch.add(format + std::to_string(ranks), ranks, arguments);
  }
  batch.run();
  for (const auto& [model, before] : models_before) {
    EXPECT_TRUE(content_of(model) == before) << "the file of the model, with its running statistics";
  }
  for (const auto& format : formats) {
    for (const int ranks : numbers_of_ranks) {
      SCOPED_TRACE(format + " on " + std::to_string(ranks));
      const auto& finished = batch.finished(format + std::to_string(ranks));
      const auto output = batch.folder(format + std::to_string(ranks)) / "result.h5";
      ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
      if (*announced == '\0') {
        EXPECT_EQ(finished.errors.find("warning"), std::string::npos) << finished.errors;
      } else {
        EXPECT_NE(finished.errors.find(announced), std::string::npos) << finished.errors;
      }
      EXPECT_NE(("\n" + StoredFile(output).attribute_text("/", "cures")).find('\n' + std::string(announced)),
                std::string::npos)
          << "and in the file";
      EXPECT_LE(relative_difference(output, models() / "operators" / name / "reference.h5"), 1e-6);
    }
    EXPECT_TRUE(StoredFile(batch.folder(format + "1") / "result.h5").bytes("/hessian") ==
                StoredFile(batch.folder(format + "3") / "result.h5").bytes("/hessian"));
  }
}

const auto name_of_test = [](const testing::TestParamInfo<Case>& info) { return std::string(info.param.folder); };
INSTANTIATE_TEST_SUITE_P(Networks, Operators,
                         testing::Values(Case{"weight_norm_dim_0", "weight_norm is computed from g and v"},
                                         Case{"dropout_train", "random layers draw the same numbers"},
                                         Case{"batchnorm2d_train", ""}),
                         name_of_test);

}  // namespace
}  // namespace end_to_end
