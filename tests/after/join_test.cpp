#include "hessian_mpi/after/join.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "expect_error.hpp"
#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::after {
namespace {

constexpr std::int64_t n = 60;

// Symmetric: a function of i + j.
double number_at(std::int64_t i, std::int64_t j) {
  return std::cos(static_cast<double>(i + j));
}

// What can differ between two parts.
struct PartJob {
  std::string loss = "mse";
  std::vector<double> value = std::vector<double>(n, 0.5);
  double scale = 1;  // of the rows
  bool complete = true;
};

class Join : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name) const { return folder_ / name; }

  void write_part(const std::string& name, const Rows& rows, const PartJob& job = {}) const {
    matrix::ParameterIndex index;
    index.append("fc.weight", {n / 2, 2});
    const matrix::MatrixShape matrix{matrix::BlockGrid(n, n * 8, rows), n, Precision::float64};
    const std::vector<double> gradient(n, -2.0);
    const file::Attributes attributes{{"loss", job.loss},
                                      {"threads", std::int64_t{1}},
                                      {"wall_seconds", 2.5},
                                      {"symmetry_error", 0.0},
                                      {"row_error", 1e-9 * static_cast<double>(rows.begin)},
                                      {"command_line", std::string("hessian_mpi")}};
    file::create_hessian_file(path(name), {index, matrix, Precision::float64, job.value, gradient, attributes}, false);
    std::vector<double> numbers;
    for (auto i = rows.begin; i < rows.end; ++i) {
      for (std::int64_t j = 0; j < n; ++j) numbers.push_back(job.scale * number_at(i, j));
    }
    file::HessianWriter writer(path(name), matrix, world_);
    writer.write(rows, numbers.data());
    writer.close();
    std::vector<file::BlockRecord> records;
    for (std::int64_t b = 0; b < matrix.grid.count(); ++b) {
      records.push_back({xxh3(numbers.data() + b * n, n * sizeof(double)), 1, true});
    }
    file::BlockMarks(path(name), matrix.grid).write(0, records);
    if (job.complete) file::finish_hessian_file(path(name), {}, true);
  }

  Joined join(const std::vector<std::string>& names, bool copy = false) const {
    JoinOptions options;
    for (const auto& name : names) options.parts.push_back(path(name));
    options.output = path("whole.h5");
    options.copy = copy;
    options.command_line = "hessian_join";
    return join_parts(options);
  }

  void expect_refused(const std::vector<std::string>& names, std::initializer_list<std::string> parts) const {
    expect_input_error([&] { join(names); }, parts);
    EXPECT_FALSE(std::filesystem::exists(path("whole.h5")));
  }

  std::size_t files() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path(""))) ++count;
    return count;
  }

  void expect_whole() const {
    const auto numbers = file::HessianReader(path("whole.h5")).tile({0, 0, n, n});
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) ASSERT_EQ(numbers[static_cast<std::size_t>(i * n + j)], number_at(i, j));
    }
    const auto stored = file::read_layout(path("whole.h5"));
    EXPECT_TRUE(stored.complete);
    EXPECT_EQ(stored.matrix.grid.part(), (Rows{0, n}));
    ASSERT_EQ(stored.blocks.size(), 60U);
    for (std::size_t b = 0; b < 60; ++b) {
      EXPECT_TRUE(stored.blocks[b].record.on_disk);
      EXPECT_EQ(stored.blocks[b].record.checksum, xxh3(numbers.data() + b * n, n * sizeof(double)));
    }
    EXPECT_EQ(stored.index.describe(5), "fc.weight[2, 1]");
  }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

TEST_F(Join, MakesOneMatrixOfPartsInAnyOrder) {
  write_part("a.h5", {0, 13});
  write_part("b.h5", {13, 14});
  write_part("c.h5", {14, 60});
  const auto joined = join({"b.h5", "c.h5", "a.h5"});
  EXPECT_EQ(joined.rows, 60);
  EXPECT_EQ(joined.bytes, 60U * 60 * 8);
  EXPECT_EQ(joined.symmetry_error, 0);
  EXPECT_TRUE(joined.warnings.empty());
  EXPECT_TRUE(hdf5::File::open_to_read(path("whole.h5")).stored_bytes("/hessian") == std::nullopt) << "not virtual";
  expect_whole();
}

TEST_F(Join, CopiesTheRowsWhereAsked) {
  write_part("a.h5", {0, 30});
  write_part("b.h5", {30, 60});
  join({"a.h5", "b.h5"}, true);
  std::filesystem::remove(path("a.h5"));
  std::filesystem::remove(path("b.h5"));
  expect_whole();
  EXPECT_EQ(files(), 1U);
}

TEST_F(Join, OfAJoinIsRefusedWhereAPartOfItsPartIsAnother) {
  write_part("a.h5", {0, 13});
  write_part("b.h5", {13, 60});
  join({"a.h5", "b.h5"});
  std::filesystem::rename(path("whole.h5"), path("joined.h5"));
  join({"joined.h5"});
  expect_whole();
  std::filesystem::rename(path("b.h5"), path("kept.h5"));
  expect_input_error([&] { file::read_layout(path("whole.h5")); }, {"the part 'b.h5'", "is not there"});
  PartJob other;
  other.scale = 2;
  write_part("b.h5", {13, 60}, other);
  expect_input_error([&] { file::read_layout(path("whole.h5")); }, {"the part 'b.h5'", "another file"});
  std::filesystem::rename(path("kept.h5"), path("b.h5"));
  expect_whole();
}

TEST_F(Join, CarriesTheWorstFiguresOfTheParts) {
  write_part("a.h5", {0, 30});
  write_part("b.h5", {30, 60});
  join({"a.h5", "b.h5"});
  const auto file = hdf5::File::open_to_read(path("whole.h5"));
  EXPECT_DOUBLE_EQ(file.number_attribute("/", "row_error").value_or(0), 30e-9);
  EXPECT_EQ(file.number_attribute("/", "wall_seconds"), 5);
  EXPECT_EQ(file.text_attribute("/", "command_line"), "hessian_join");
  EXPECT_EQ(file.text_attribute("/", "part_command_line"), "hessian_mpi");
  EXPECT_EQ(file.integer_attribute("/", "parts"), 2);
}

TEST_F(Join, RefusesAGap) {
  write_part("a.h5", {0, 13});
  write_part("b.h5", {14, 60});
  expect_refused({"a.h5", "b.h5"}, {"no part has rows 13:14", path("b.h5")});
  expect_refused({"b.h5"}, {"no part has rows 0:14"});
  expect_refused({"a.h5"}, {"no part has rows 13:60", path("a.h5")});
}

TEST_F(Join, RefusesAnOverlap) {
  write_part("a.h5", {0, 13});
  write_part("b.h5", {12, 60});
  expect_refused({"b.h5", "a.h5"}, {path("a.h5"), path("b.h5"), "overlap"});
  expect_refused({"a.h5", "a.h5"}, {"overlap"});
}

TEST_F(Join, RefusesPartsOfDifferentJobs) {
  write_part("a.h5", {0, 13});
  PartJob other;
  other.loss = "l1";
  write_part("b.h5", {13, 60}, other);
  expect_refused({"a.h5", "b.h5"}, {path("a.h5"), path("b.h5"), "loss: 'mse' in the first, 'l1' in the second"});
  PartJob moved;
  moved.value[7] = 0.25;
  write_part("c.h5", {13, 60}, moved);
  expect_refused({"a.h5", "c.h5"}, {"different jobs: the values of the parameters"});
}

TEST_F(Join, RefusesAPartThatIsNotComplete) {
  write_part("a.h5", {0, 13});
  PartJob unfinished;
  unfinished.complete = false;
  write_part("b.h5", {13, 60}, unfinished);
  expect_refused({"a.h5", "b.h5"}, {path("b.h5"), "not complete", "--resume"});
}

TEST_F(Join, RefusesWhatIsNoPart) {
  write_part("a.h5", {0, 13});
  std::ofstream(path("b.h5")) << "not HDF5";
  expect_refused({"a.h5", "b.h5"}, {path("b.h5"), "damaged, or not a file of hessian_mpi"});
  expect_refused({"a.h5", "nowhere.h5"}, {path("nowhere.h5"), "no such file"});
}

TEST_F(Join, FindsADamagedBlockWhenItCopies) {
  write_part("a.h5", {0, 13});
  write_part("b.h5", {13, 60});
  const auto offset = hdf5::File::open_to_read(path("b.h5")).offset_in_file("/hessian");
  std::fstream file(path("b.h5"), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset) + 7 * n * 8);  // row 20
  const double wrong = 7;
  file.write(reinterpret_cast<const char*>(&wrong), sizeof(wrong));
  file.close();
  try {
    join({"a.h5", "b.h5"}, true);
    ADD_FAILURE() << "a damaged block was copied";
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find("rows 20 to 20"), std::string::npos) << error.what();
  }
  EXPECT_EQ(files(), 2U) << "something was left of the output";
}

TEST_F(Join, FindsPartsThatDoNotFitEachOther) {
  write_part("a.h5", {0, 30});
  PartJob other;
  other.scale = 2;
  write_part("b.h5", {30, 60}, other);
  EXPECT_THROW(join({"a.h5", "b.h5"}), RunError);
  EXPECT_EQ(files(), 2U) << "something was left of the output";
}

TEST_F(Join, NeverReplacesAnExistingFileUnasked) {
  write_part("a.h5", {0, 60});
  std::ofstream(path("whole.h5")) << "precious";
  expect_input_error([&] { join({"a.h5"}); }, {path("whole.h5"), "exists"});
  EXPECT_EQ(std::filesystem::file_size(path("whole.h5")), 8U);
}

}  // namespace
}  // namespace hessian_mpi::after
