#include "hessian_mpi/after/result_file.hpp"

#include <gtest/gtest.h>

#include "expect_error.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::after {
namespace {

file::StoredLayout hessian_of(std::int64_t n) {
  file::StoredLayout hessian;
  hessian.matrix.columns = n;
  hessian.attributes = {{"loss", "mse"}, {"loss_value", 0.5}, {"samples", std::int64_t{8}}};
  return hessian;
}

TEST(ResultFile, HoldsWhatWasAddedAndWhereItComesFrom) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto path = folder / "h.spectrum.h5";
  {
    ResultFile result(path, false, {"hessian_mpi spectrum", "h.h5", "hessian_spectrum h.h5"}, hessian_of(3), 100,
                      world);
    result.add("/largest/eigenvalues", {2}, {4.5, 3.5});
    result.describe("/largest", {{"tolerance", 1e-8}});
    result.reserve("/eigenvectors", {3, 2});
    ResultFile::TileWriter writer(result, "/eigenvectors");
    const std::vector<double> rows{0, 1, 10, 11, 20, 21};
    const auto begin = static_cast<std::uint64_t>(3 * world.rank() / world.size());
    const auto end = static_cast<std::uint64_t>(3 * (world.rank() + 1) / world.size());
    writer.write({begin, 0, end - begin, 2}, rows.data() + 2 * begin);
    writer.finish();
    // Columns of all rows: root has the first, the last rank the second.
    result.reserve("/tiles", {3, 2});
    ResultFile::TileWriter tiles(result, "/tiles");
    const bool last = world.rank() + 1 == world.size();
    const std::uint64_t first = world.is_root() ? 0 : 1;
    const std::uint64_t columns = world.size() == 1 ? 2 : world.is_root() || last ? 1 : 0;
    std::vector<double> own;
    for (int row = 0; row < 3; ++row) {
      for (auto j = first; j < first + columns; ++j) own.push_back(10.0 * row + static_cast<double>(j));
    }
    tiles.write({0, first, 3, columns}, own.data());
    tiles.finish();
    // What is added after large datasets moves none of them.
    result.add("/after", {2}, {7, 8});
    EXPECT_FALSE(std::filesystem::exists(path));
    result.publish({{"checks", "passed"}});
  }
  world.wait_for_all();
  const auto file = hdf5::File::open_to_read(path);
  std::vector<double> numbers(6);
  file.read("/eigenvectors", hdf5::Type::float64, numbers.data());
  EXPECT_EQ(numbers, (std::vector<double>{0, 1, 10, 11, 20, 21}));
  file.read("/tiles", hdf5::Type::float64, numbers.data());
  EXPECT_EQ(numbers, (std::vector<double>{0, 1, 10, 11, 20, 21}));
  numbers.resize(2);
  file.read("/after", hdf5::Type::float64, numbers.data());
  EXPECT_EQ(numbers, (std::vector<double>{7, 8}));
  file.read("/largest/eigenvalues", hdf5::Type::float64, numbers.data());
  EXPECT_EQ(numbers, (std::vector<double>{4.5, 3.5}));
  EXPECT_EQ(file.number_attribute("/largest", "tolerance"), 1e-8);
  EXPECT_EQ(file.text_attribute("/", "format"), "hessian_mpi spectrum");
  EXPECT_EQ(file.text_attribute("/", "command_line"), "hessian_spectrum h.h5");
  EXPECT_EQ(file.integer_attribute("/", "N"), 3);
  EXPECT_EQ(file.text_attribute("/", "checks"), "passed");
  EXPECT_TRUE(file.text_attribute("/", "finished").has_value());
  EXPECT_EQ(file.text_attribute("/hessian", "loss"), "mse");
  EXPECT_EQ(file.number_attribute("/hessian", "loss_value"), 0.5);
  EXPECT_EQ(file.integer_attribute("/hessian", "samples"), 8);
}

TEST(ResultFile, ThatIsNotPublishedLeavesNothing) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  {
    ResultFile result(folder / "h.spectrum.h5", false, {"f", "h.h5", ""}, hessian_of(3), 100, world);
    result.add("/eigenvalues", {1}, {1});
  }
  world.wait_for_all();
  EXPECT_TRUE(std::filesystem::is_empty(folder / ""));
}

TEST(ResultFile, ReplacesAnotherOnlyWhereAsked) {
  const auto world = ranks::Communicator::world();
  const SharedFolder folder(world);
  const auto path = folder / "h.spectrum.h5";
  ResultFile(path, false, {"f", "h.h5", "first"}, hessian_of(3), 100, world).publish({});
  try {
    const ResultFile refused(path, false, {"f", "h.h5", "second"}, hessian_of(3), 100, world);
    ADD_FAILURE() << "no error";
  } catch (const ranks::AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    EXPECT_NE(std::string(error.what()).find("--overwrite"), std::string::npos) << error.what();
  }
  ResultFile(path, true, {"f", "h.h5", "third"}, hessian_of(3), 100, world).publish({});
  world.wait_for_all();
  EXPECT_EQ(hdf5::File::open_to_read(path).text_attribute("/", "command_line"), "third");
}

TEST(NameOfResult, TakesTheKindBeforeTheEnding) {
  EXPECT_EQ(name_of_result("a/hessian.h5", "spectrum"), "a/hessian.spectrum.h5");
  EXPECT_EQ(name_of_result("h.x.hdf5", "solution"), "h.x.solution.h5");
  EXPECT_EQ(name_of_result("hessian", "spectrum"), "hessian.spectrum.h5");
}

}  // namespace
}  // namespace hessian_mpi::after
