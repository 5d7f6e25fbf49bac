// Who makes which rows, and that they come as they were made to the ranks that want them.

#include "handed_rows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/engines/double_backward.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/run/assemble_by_layer.hpp"
#include "hessian_mpi/system/stop.hpp"
#include "layers/scripted_problem.hpp"

namespace hessian_mpi::run {
namespace {

constexpr std::int64_t outputs = 5;

// A weight of 5 outputs that lies input by input, one that lies output by output, with its bias, and others.
matrix::ParameterIndex index_of_parameters() {
  matrix::ParameterIndex index;
  index.append("first", {10});
  index.append("by_input", {4, outputs});
  index.append("by_output", {outputs, 3});
  index.append("bias", {outputs});
  index.append("last", {7});
  return index;
}

layers::LayerPlan plan_of_parameters(std::int64_t together) {
  layers::LayerPlan plan;
  plan.parameters.resize(5);
  for (const auto p : {1U, 2U, 3U}) plan.parameters[p].step = 1;
  for (const auto p : {1U, 3U}) {
    plan.parameters[p].outputs = outputs;
    plan.parameters[p].outputs_together = together;
  }
  plan.parameters[3].weight_of = 2;
  plan.steps.resize(2);
  return plan;
}

using RowsOfRanks = std::vector<std::vector<Rows>>;

HandedRows handed_rows(std::int64_t together, const RowsOfRanks& wanted) {
  const auto index = index_of_parameters();
  return {
      plan_of_parameters(together), index, 1, wanted, {{0, 10}}, matrix_of(index, Precision::float32, Entries::all)};
}

std::vector<std::int64_t> numbers_of(const std::vector<Rows>& runs) {
  std::vector<std::int64_t> rows;
  for (const auto& run : runs) {
    for (auto row = run.begin; row < run.end; ++row) rows.push_back(row);
  }
  return rows;
}

std::vector<std::int64_t> made_by(const HandedRows& rows, int rank) {
  auto made = numbers_of(rows.made_by(rank));
  std::sort(made.begin(), made.end());
  return made;
}

using Numbers = std::vector<std::int64_t>;

TEST(HandedRows, OfAnOutputAreOneRanks) {
  const auto rows = handed_rows(1, {{{10, 20}}, {{20, 30}}, {{30, 50}}});
  EXPECT_EQ(made_by(rows, 0), (Numbers{10, 15, 20, 25}));
  EXPECT_EQ(made_by(rows, 1), (Numbers{11, 12, 16, 17, 21, 22, 26, 27}));
  // Its are all rows of the weight that lies output by output, too.
  EXPECT_EQ(made_by(rows, 2), (Numbers{13, 14, 18, 19, 23, 24, 28, 29, 45, 46, 47, 48, 49}));
  EXPECT_EQ(numbers_of(rows.to_rank(0)), numbers_of({{10, 20}}));
  EXPECT_EQ(numbers_of(rows.to_rank(2)), numbers_of({{45, 50}}));
  // In all columns but those of the first ten, and room for what is made at a time.
  EXPECT_EQ(rows.bytes(), 10U * 47U * 4U + (32U << 20));
}

TEST(HandedRows, OfOutputsThatComeOfTheSamePassesAreOneRanks) {
  const auto rows = handed_rows(2, {{{10, 20}}, {{20, 30}}});
  EXPECT_EQ(made_by(rows, 0), (Numbers{10, 11, 15, 16, 20, 21, 25, 26}));
  EXPECT_EQ(made_by(rows, 1), (Numbers{12, 13, 14, 17, 18, 19, 22, 23, 24, 27, 28, 29}));
}

TEST(HandedRows, OfABiasAreThoseOfWhoMakesTheWeight) {
  const auto rows = handed_rows(1, {{{30, 36}}, {{36, 45}}, {{45, 50}}});
  EXPECT_EQ(made_by(rows, 0), (Numbers{45, 46}));
  EXPECT_EQ(made_by(rows, 1), (Numbers{47, 48, 49}));
  EXPECT_EQ(made_by(rows, 2), Numbers());
  // Where the weight has been made before, they are shared.
  const auto alone = handed_rows(1, {{{45, 50}}, {}});
  EXPECT_EQ(made_by(alone, 0), (Numbers{45, 46}));
  EXPECT_EQ(made_by(alone, 1), (Numbers{47, 48, 49}));
}

TEST(HandedRows, AreThoseThatAreWanted) {
  const auto rows = handed_rows(1, {{{12, 14}}, {{13, 14}, {21, 23}}});
  EXPECT_EQ(made_by(rows, 0), (Numbers{21}));
  EXPECT_EQ(made_by(rows, 1), (Numbers{12, 13, 22}));
}

// Of a network whose first weight lies input by input, by all ranks and with the given memory.
class Handing {
 public:
  explicit Handing(std::uint64_t memory, std::int64_t samples = 4) : memory_(memory), samples_(samples) {
    std::vector<file::BlockRecord> nothing(static_cast<std::size_t>(matrix_.grid.count()));
    assembly_.prepare({}, nothing, std::uint64_t{1} << 30, stop_);
  }

  const layers::LayerPlan& plan() const { return plan_; }
  const LayeredAssembly& assembly() const { return assembly_; }
  /// Of each step in which this rank has blocks, before their first row and after the last.
  const std::vector<engines::Passes>& passes_before() const { return passes_before_; }
  const std::vector<engines::Passes>& passes_after() const { return passes_after_; }

  /// All rows, of which take gets those of a block of this rank.
  void make(const std::function<void(const Rows& rows, const std::vector<double>& numbers)>& take) {
    const auto make_blocks = [&](engines::Engine& engine, const matrix::SharedBlocks& blocks) {
      world_.together([&] {
        const auto own = blocks.of_rank(world_.rank());
        if (own.empty()) return;
        passes_before_.push_back(engine.passes());
        for (const auto b : own) {
          const auto rows = matrix_.grid.block(b);
          std::vector<double> numbers(static_cast<std::size_t>(rows.count() * matrix_.columns), 1e300);
          engine.compute(rows, {0, matrix_.columns}, Precision::float64, numbers.data(), [](double) {});
          take(rows, numbers);
        }
        passes_after_.push_back(engine.passes());
      });
      return Assembled();
    };
    assembly_.assemble(make_blocks, memory_, stop_);
  }

  /// The largest difference of this rank's rows from those by double-backward.
  double difference() {
    double largest = 0;
    engines::DoubleBackward expected_rows(problem_);
    make([&](const Rows& rows, const std::vector<double>& found) {
      std::vector<double> expected(found.size());
      expected_rows.compute(rows, {0, matrix_.columns}, Precision::float64, expected.data(), [](double) {});
      for (std::size_t k = 0; k < found.size(); ++k) largest = std::max(largest, std::abs(found[k] - expected[k]));
    });
    return largest;
  }

 private:
  std::uint64_t memory_;
  std::int64_t samples_;
  std::vector<engines::Passes> passes_before_;
  std::vector<engines::Passes> passes_after_;
  ranks::Communicator world_ = ranks::Communicator::world();
  network::Problem problem_ =
      layers::problem_of({{"v", {3, 8}}, {"w", {6, 8}}, {"b", {8}}, {"c", {3}}},
                         "    y = torch.tanh(torch.matmul(x, self.w) + self.b)\n"
                         "    z = torch.linear(torch.mean(torch.softmax(y, 1) * y, 1), self.v, self.c)\n"
                         "    return torch.mean(torch.pow(z, 3))\n",
                         {samples_, 3, 6});
  layers::LayerPlan plan_ = layers::plan_layers(problem_, Method::layers);
  matrix::MatrixShape matrix_ = matrix_of(problem_.index(), Precision::float64, Entries::all);
  engines::DoubleBackward unfactored_{problem_};
  system::StopRequest request_;
  ranks::StopPoint stop_{request_, world_};
  LayeredAssembly assembly_{problem_, plan_, matrix_, numbers_of_blocks(), Precision::float64, unfactored_, world_};

  matrix::BlockList numbers_of_blocks() const {
    matrix::BlockList blocks;
    for (std::int64_t b = 0; b < matrix_.grid.count(); ++b) blocks.push_back(b);
    return blocks;
  }
};

TEST(HandedRows, AreThoseByDoubleBackward) {
  Handing handing(std::uint64_t{1} << 30);
  EXPECT_EQ(handing.plan().parameters[1].outputs, 8);
  EXPECT_EQ(handing.plan().parameters[3].weight_of, std::optional<std::size_t>(0));
  EXPECT_EQ(handing.assembly().bytes_handed() > 0, ranks::Communicator::world().size() > 1);
  EXPECT_LE(handing.difference(), 1e-14);
}

// For the progress: what was made for others is known with the first row, and no more is to come after the last.
TEST(HandedRows, AreKnownByTheirPasses) {
  Handing handing(std::uint64_t{1} << 30);
  handing.difference();
  const auto some = [](const std::vector<engines::Passes>& steps) {
    return std::any_of(steps.begin(), steps.end(), [](const auto& passes) { return passes.made.value_or(0) > 0; });
  };
  EXPECT_EQ(some(handing.passes_before()), ranks::Communicator::world().size() > 1);
  EXPECT_TRUE(some(handing.passes_after()));
  for (const auto& passes : handing.passes_after()) {
    EXPECT_GT(passes.seconds, 0);
    EXPECT_EQ(passes.made.value_or(1), 1);
  }
}

// Where they do not fit into memory, passes are made again, and their rows tell how many.
TEST(HandedRows, AreMadeByEachRankWhereThereIsNoMemoryForThem) {
  Handing handing(0);
  EXPECT_LE(handing.difference(), 1e-14);
  for (const auto& passes : handing.passes_after()) EXPECT_FALSE(passes.made);
}

// No more than it takes to hand rows over, where that is less than to keep what all passes give.
TEST(HandedRows, NeedTheMemoryThatIsAskedForThem) {
  constexpr std::int64_t many = 12288;
  const bool alone = ranks::Communicator::world().size() == 1;
  const auto asked = Handing(0, many).assembly().memory_for_passes_once();
  const auto makes_once = [&](std::uint64_t memory) {
    Handing handing(memory, many);
    EXPECT_EQ(asked < handing.assembly().bytes_of_passes(), !alone);
    handing.make([](const Rows& /*rows*/, const std::vector<double>& /*numbers*/) {});
    constexpr std::size_t step_of_first_weight = 1;  // of those with rows
    return alone ? handing.passes_after().at(step_of_first_weight).made.has_value()
                 : handing.passes_before().at(step_of_first_weight).seconds > 0;
  };
  EXPECT_TRUE(makes_once(asked));
  EXPECT_FALSE(makes_once(asked - 1));
}

}  // namespace
}  // namespace hessian_mpi::run
