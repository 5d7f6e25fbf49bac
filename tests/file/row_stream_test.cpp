#include "hessian_mpi/file/row_stream.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "hessian_mpi/base/error.hpp"
#include "matrix_file.hpp"

namespace hessian_mpi::file {
namespace {

matrix::ParameterIndex index_of(std::int64_t n) {
  matrix::ParameterIndex index;
  index.append("weight", {n});
  return index;
}

std::vector<double> random_numbers(std::int64_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> any;
  std::vector<double> numbers(static_cast<std::size_t>(count));
  for (auto& number : numbers) number = any(random);
  return numbers;
}

// The numbers of all slabs, one after the other.
std::vector<double> numbers_in(RowStream& stream) {
  std::vector<double> found;
  stream.each([&](const Slab& slab) {
    with_numbers(slab, [&](const auto* numbers) {
      found.insert(found.end(), numbers, numbers + slab.rows.count() * slab.columns);
    });
  });
  return found;
}

// What is read next from there on comes from the disk, where the file system has one.
void let_go_of_pages(const std::filesystem::path& path, std::uint64_t from) {
  const system::PosixFile file(path, O_RDWR);
  file.sync();
  ASSERT_EQ(posix_fadvise(file.descriptor(), static_cast<off_t>(from), 0, POSIX_FADV_DONTNEED), 0);
}

TEST(SlabsOf, AreWholeRowsOfAFewMegabytes) {
  const matrix::MatrixShape narrow{matrix::BlockGrid(100, 400), 100, Precision::float32};
  EXPECT_EQ(slabs_of({3, 90}, narrow), (std::vector<Rows>{{3, 90}}));
  EXPECT_TRUE(slabs_of({3, 3}, narrow).empty());
  const std::int64_t n = 1 << 20;
  const matrix::MatrixShape wide{matrix::BlockGrid(n, 8 * n), n, Precision::float64};
  EXPECT_EQ(slabs_of({3, 9}, wide), (std::vector<Rows>{{3, 7}, {7, 9}}));
  const matrix::MatrixShape wider{matrix::BlockGrid(16 * n, 128 * n), 16 * n, Precision::float64};
  EXPECT_EQ(slabs_of({3, 5}, wider), (std::vector<Rows>{{3, 4}, {4, 5}}));
}

TEST(RowsOfRank, CoverThePartOfTheFile) {
  const matrix::MatrixShape part{matrix::BlockGrid(100, 400, {10, 21}), 100, Precision::float32};
  EXPECT_EQ(rows_of_rank(part, 0, 2), (Rows{10, 15}));
  EXPECT_EQ(rows_of_rank(part, 1, 2), (Rows{15, 21}));
  EXPECT_EQ(rows_of_rank(part, 0, 40).count(), 0);
}

TEST(RowStream, ReadsRowsAsTheyWereWrittenInBothTypesAgainAndAgain) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 1500;  // several slabs
  const auto numbers = random_numbers(n * n);
  for (const auto storage : {Precision::float32, Precision::float64}) {
    const MatrixFile file(world, index_of(n), storage, numbers);
    const auto rows = rows_of_rank(file.matrix, world.rank(), world.size());
    RowStream stream(file.path(), file.matrix, slabs_of(rows, file.matrix));
    EXPECT_TRUE(stream.reads_plainly());
    const std::vector<double> own(numbers.begin() + rows.begin * n, numbers.begin() + rows.end * n);
    EXPECT_EQ(numbers_in(stream), own);
    EXPECT_EQ(numbers_in(stream), own);
    let_go_of_pages(file.path(), 0);
    EXPECT_EQ(numbers_in(stream), own);
  }
}

TEST(RowStream, ReadsRowsOfWhichSomeAreInMemory) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t n = 800;
  const auto numbers = random_numbers(n * n);
  const MatrixFile file(world, index_of(n), Precision::float64, numbers);
  std::vector<Rows> slabs;
  for (std::int64_t row = 0; row < n; row += 20) slabs.push_back({row, row + 20});
  RowStream stream(file.path(), file.matrix, slabs);
  for (const int parts : {2, 3, 40}) {
    EXPECT_EQ(numbers_in(stream), numbers);
    let_go_of_pages(file.path(), std::filesystem::file_size(file.path()) / static_cast<std::uint64_t>(parts));
    EXPECT_EQ(numbers_in(stream), numbers) << "from a " << parts << "th of the file on";
  }
}

TEST(RowStream, VisitsRowsOfAPartInTheOrderAskedFor) {
  const auto world = ranks::Communicator::world();
  const auto numbers = random_numbers(20 * 100);
  const MatrixFile file(world, index_of(100), Precision::float32, {50, 70}, numbers);
  RowStream stream(file.path(), file.matrix, {{60, 61}, {52, 55}});
  std::vector<Rows> visited;
  stream.each([&](const Slab& slab) {
    visited.push_back(slab.rows);
    EXPECT_EQ(slab.size(), static_cast<std::size_t>(slab.rows.count() * 100) * sizeof(float));
    const auto* first = reinterpret_cast<const float*>(slab.bytes);
    EXPECT_EQ(first[3], numbers[static_cast<std::size_t>((slab.rows.begin - 50) * 100 + 3)]);
  });
  EXPECT_EQ(visited, (std::vector<Rows>{{60, 61}, {52, 55}}));
}

TEST(RowStream, ReadsRowsThatLieInOtherFiles) {
  const auto world = ranks::Communicator::world();
  const auto numbers = random_numbers(30 * 30);
  const auto index = index_of(30);
  const MatrixFile first(world, index, Precision::float64, {0, 20}, {numbers.begin(), numbers.begin() + 600});
  const MatrixFile second(world, index, Precision::float64, {20, 30}, {numbers.begin() + 600, numbers.end()});
  const SharedFolder folder(world);
  const matrix::MatrixShape whole{matrix::BlockGrid(30, 240), 30, Precision::float64};
  world.on_root([&] {
    auto file = hdf5::File::create(folder / "joined.h5");
    file.create_virtual_dataset("/hessian", hdf5::Type::float64, {30, 30},
                                {{first.path(), 0, 20}, {second.path(), 20, 30}});
    file.close();
  });
  RowStream stream(folder / "joined.h5", whole, {{0, 18}, {18, 25}, {25, 30}});
  EXPECT_FALSE(stream.reads_plainly());
  EXPECT_EQ(numbers_in(stream), numbers);
}

TEST(RowStream, EndsWithWhatAVisitThrows) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, index_of(100), Precision::float64, random_numbers(100 * 100));
  RowStream stream(file.path(), file.matrix, {{0, 10}, {10, 20}, {20, 30}});
  int visits = 0;
  const auto leave = [&](const Slab&) {
    ++visits;
    throw RunError("enough");
  };
  EXPECT_THROW(stream.each(leave), RunError);
  EXPECT_EQ(visits, 1);
  EXPECT_EQ(numbers_in(stream).size(), 3000U);
}

TEST(RowStream, SaysWhereAFileEnds) {
  const auto world = ranks::Communicator::world();
  const MatrixFile file(world, index_of(600), Precision::float64, random_numbers(600 * 600));
  RowStream stream(file.path(), file.matrix, {{0, 10}, {590, 600}});
  world.wait_for_all();
  world.on_root([&] { std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) / 2); });
  try {
    numbers_in(stream);
    ADD_FAILURE() << "no error";
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find("it ends there"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hessian_mpi::file
