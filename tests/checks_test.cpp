#include "hessian_mpi/checks.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <set>

#include "closed_form_model.hpp"
#include "hessian_mpi/checksum.hpp"
#include "hessian_mpi/hessian_file.hpp"
#include "hessian_mpi/hessian_rows.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi {
namespace {

// A file with a matrix that the test has made.
class MatrixFile {
 public:
  MatrixFile(const Communicator& world, std::int64_t n, const std::vector<double>& numbers)
      : matrix{BlockGrid(n, n * 8), n, Precision::float64}, world_(world), folder_(world), n_(n) {
    ParameterIndex index;
    index.append("weight", {n});
    world.on_root([&] {
      const std::vector<double> zeros(static_cast<std::size_t>(n), 0.0);
      create_hessian_file(path(), {index, matrix, Precision::float64, zeros, zeros, {}}, false);
    });
    HessianWriter writer(path(), matrix, world);
    const Rows own{n * world.rank() / world.size(), n * (world.rank() + 1) / world.size()};
    writer.write(own, numbers.data() + own.begin * n);
    writer.close();
    for (std::int64_t b = 0; b < matrix.grid.count(); ++b) {
      const auto [begin, end] = matrix.grid.block(b);
      const auto bytes = static_cast<std::size_t>((end - begin) * n) * sizeof(double);
      records.push_back({xxh3(numbers.data() + begin * n, bytes), 0, true});
    }
  }
  std::filesystem::path path() const { return folder_ / "hessian.h5"; }

  // Collective. Replaces one number behind HDF5's back.
  void damage(std::int64_t i, std::int64_t j, double number) const {
    world_.on_root([&] {
      const auto offset = hdf5::File::open_to_read(path()).offset_in_file("/hessian");
      std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(offset) + (i * n_ + j) * static_cast<std::streamoff>(sizeof(double)));
      file.write(reinterpret_cast<const char*>(&number), sizeof(number));
    });
  }

  const MatrixShape matrix;
  std::vector<BlockRecord> records;

 private:
  const Communicator& world_;
  SharedFolder folder_;
  std::int64_t n_;
};

// Symmetric: a function of i + j.
std::vector<double> symmetric_numbers(std::int64_t n) {
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) numbers.push_back(std::cos(static_cast<double>(i + j)));
  }
  return numbers;
}

Data one_sample() {
  return {{torch::tensor({{0.5, -2.0}})}, {}};
}

Problem closed_form_problem() {
  ProblemSettings settings;
  settings.loss = "output";
  settings.precision = Precision::float64;
  return {std::make_unique<ClosedFormModel>(), one_sample(), settings};
}

TEST(VerifyBlocks, FindsWhatIsNotWhatWasWritten) {
  const auto world = Communicator::world();
  const MatrixFile file(world, 60, symmetric_numbers(60));
  const auto check = [&](Verify which) {
    return verify_blocks(file.path(), file.matrix, file.records, {}, which, world);
  };
  EXPECT_EQ(check(Verify::all).checked, file.matrix.grid.count());
  EXPECT_TRUE(check(Verify::all).damaged.empty());
  EXPECT_TRUE(check(Verify::sample).damaged.empty());
  file.damage(41, 7, 3.0);
  EXPECT_EQ(check(Verify::all).damaged, std::vector<std::int64_t>{41 / file.matrix.grid.rows_per_block()});
  EXPECT_EQ(check(Verify::none).checked, 0);
}

TEST(VerifyBlocks, PassesOverBlocksThatAreNotOnTheDisk) {
  const auto world = Communicator::world();
  MatrixFile file(world, 60, symmetric_numbers(60));
  file.damage(41, 7, 3.0);
  file.records[41].on_disk = false;
  const auto check = verify_blocks(file.path(), file.matrix, file.records, {shared_evenly({0, 1, 2}, world.size())},
                                   Verify::all, world);
  EXPECT_EQ(check.checked, 59);
  EXPECT_TRUE(check.damaged.empty());
}

TEST(VerifyBlocks, ASampleIsAPartOfTheBlocks) {
  const auto world = Communicator::world();
  constexpr std::int64_t n = 300;
  const MatrixFile file(world, n, symmetric_numbers(n));
  const auto sample = verify_blocks(file.path(), file.matrix, file.records, {}, Verify::sample, world);
  EXPECT_GT(sample.checked, 0);
  EXPECT_LT(sample.checked, file.matrix.grid.count());
}

TEST(SymmetryError, IsZeroForASymmetricMatrixAndTheDifferenceForAnother) {
  const auto world = Communicator::world();
  const MatrixFile file(world, 60, symmetric_numbers(60));
  EXPECT_EQ(symmetry_error(file.path(), {2, 3, 17, 50}, 1.0, world), 0);
  file.damage(3, 50, std::cos(53.0) + 0.5);
  EXPECT_NEAR(symmetry_error(file.path(), {2, 3, 17, 50}, 2.0, world), 0.25, 1e-12);
  EXPECT_NEAR(symmetry_error(file.path(), {3, 50}, 2.0), 0.25, 1e-12);
  EXPECT_EQ(symmetry_error(file.path(), {2, 3, 17}, 1.0, world), 0);
  EXPECT_EQ(symmetry_error(file.path(), {3}, 1.0, world), 0);
}

TEST(SampleForSymmetry, HasRowsOfEveryParameterOfThePart) {
  ParameterIndex index;
  index.append("weight", {1000});
  index.append("bias", {3});
  index.append("nothing", {0});
  index.append("scale", {});
  const auto rows = sample_for_symmetry(index, {0, 1004});
  EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](auto row) { return row < 1000; }), 21);
  EXPECT_EQ((std::vector<std::int64_t>(rows.end() - 4, rows.end())),
            (std::vector<std::int64_t>{1000, 1001, 1002, 1003}));
  EXPECT_EQ(sample_for_symmetry(index, {990, 1001}).size(), 11U);
  EXPECT_EQ(sample_for_symmetry(index, {1003, 1004}), (std::vector<std::int64_t>{1003}));
}

TEST(SampleRows, AreDifferentRowsInOrder) {
  const auto rows = sample_rows({0, 1000}, 20);
  EXPECT_EQ(rows.size(), 20U);
  EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
  EXPECT_EQ(std::set<std::int64_t>(rows.begin(), rows.end()).size(), 20U);
  EXPECT_EQ(sample_rows({0, 3}, 20), (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(sample_rows({7, 9}, 20), (std::vector<std::int64_t>{7, 8}));
}

const std::vector<std::int64_t> every_row{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

TEST(RowError, IsSmallForTheHessianAndNotForAnotherMatrix) {
  const auto world = Communicator::world();
  const MatrixFile file(world, closed_form_size, closed_form_hessian(0.5, -2.0));
  const auto problem = closed_form_problem();
  EXPECT_LE(row_error(file.path(), problem, Matrix::hessian, every_row, 6, world), 1e-14);
  file.damage(5, 0, 0.0);  // -3 in the Hessian, the largest number of its row is -3.5
  EXPECT_NEAR(row_error(file.path(), problem, Matrix::hessian, every_row, 6, world), 3 / 3.5, 1e-12);
  EXPECT_LE(row_error(file.path(), problem, Matrix::hessian, {0, 1, 2, 3, 4}, 6, world), 1e-14);
}

TEST(RowError, KnowsTheL2Term) {
  const auto world = Communicator::world();
  auto numbers = closed_form_hessian(0.5, -2.0);
  for (std::size_t k = 0; k < closed_form_size; ++k) numbers[k * closed_form_size + k] += 0.75;
  const MatrixFile file(world, closed_form_size, numbers);
  ProblemSettings settings;
  settings.loss = "output";
  settings.precision = Precision::float64;
  settings.l2 = 0.75;
  const Problem problem(std::make_unique<ClosedFormModel>(), one_sample(), settings);
  EXPECT_LE(row_error(file.path(), problem, Matrix::hessian, every_row, 6, world), 1e-14);
  file.damage(9, 9, 0.0);  // of d, which has a row of zeros but for this term
  EXPECT_NEAR(row_error(file.path(), problem, Matrix::hessian, every_row, 6, world), 1, 1e-12);
}

TEST(RowError, NumbersThatAreNotFiniteAreNoAgreement) {
  const auto world = Communicator::world();
  const MatrixFile file(world, closed_form_size, closed_form_hessian(0.5, -2.0));
  file.damage(5, 0, std::numeric_limits<double>::quiet_NaN());
  EXPECT_FALSE(row_error(file.path(), closed_form_problem(), Matrix::hessian, every_row, 6, world) <= 1);
}

TEST(Products, AreThoseOfTheFilesRows) {
  const auto world = Communicator::world();
  const MatrixFile file(world, 60, symmetric_numbers(60));
  std::vector<double> ones(60, 1.0);
  std::vector<double> unit(60, 0.0);
  unit[7] = 2;
  const auto found = products(file.path(), {3, 20, 59}, {ones, unit}, world);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[1], (std::vector<double>{2 * std::cos(10.0), 2 * std::cos(27.0), 2 * std::cos(66.0)}));
  double sum = 0;
  for (int j = 0; j < 60; ++j) sum += std::cos(20.0 + j);
  EXPECT_NEAR(found[0][1], sum, 1e-12);
}

}  // namespace
}  // namespace hessian_mpi
