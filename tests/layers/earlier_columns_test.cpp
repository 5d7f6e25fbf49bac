// Plain rows as columns, on any number of ranks: each rank gets the numbers that its rows want, from wherever they were
// noted.

#include "hessian_mpi/layers/earlier_columns.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/matrix/runs.hpp"

namespace hessian_mpi::layers {
namespace {

constexpr std::int64_t n = 40;
const std::vector<Rows> plain{{3, 7}, {20, 21}, {30, 34}};

// H[i][j] of a matrix that is symmetric.
double number(std::int64_t i, std::int64_t j) {
  return static_cast<double>(std::min(i, j) * 100 + std::max(i, j));
}

// What is left, in two runs for each rank.
std::vector<std::vector<Rows>> wanted_by(int ranks) {
  std::vector<std::vector<Rows>> wanted(static_cast<std::size_t>(ranks));
  wanted.front().push_back({0, 2});
  for (std::int64_t row = 7; row < 20; ++row) {
    auto& runs = wanted[static_cast<std::size_t>((row - 7) * ranks / 13)];
    if (!runs.empty() && runs.back().end == row) {
      ++runs.back().end;
    } else {
      runs.push_back({row, row + 1});
    }
  }
  return wanted;
}

template <class Number>
void expect_columns(const std::function<bool(std::int64_t, int, int)>& notes) {
  const auto world = ranks::Communicator::world();
  const auto wanted = wanted_by(world.size());
  EarlierColumns columns(plain, wanted, world.rank(), sizeof(Number) == 4 ? Precision::float32 : Precision::float64);
  for (const auto& run : plain) {
    for (auto i = run.begin; i < run.end; ++i) {
      if (!notes(i, world.rank(), world.size())) continue;
      std::vector<Number> row;
      for (std::int64_t j = 0; j < n; ++j) row.push_back(static_cast<Number>(number(i, j)));
      columns.note({i, i + 1}, row.data(), n);
    }
  }
  columns.exchange(world);
  for (const auto& run : wanted[static_cast<std::size_t>(world.rank())]) {
    for (auto i = run.begin; i < run.end; ++i) {
      std::vector<Number> row(n, Number{-1});
      columns.fill({i, i + 1}, row.data(), n);
      for (std::int64_t j = 0; j < n; ++j) {
        const bool is_plain = (3 <= j && j < 7) || j == 20 || (30 <= j && j < 34);
        ASSERT_EQ(row[static_cast<std::size_t>(j)], is_plain ? number(i, j) : -1) << i << ", " << j;
      }
    }
  }
}

TEST(EarlierColumns, ComeFromTheRankThatHasThem) {
  expect_columns<float>([](std::int64_t row, int rank, int ranks) { return row % ranks == rank; });
  expect_columns<double>([](std::int64_t row, int rank, int ranks) { return (row / 3) % ranks == rank; });
}

// The last rank has fewer rows than others: none.
TEST(EarlierColumns, NeedNotBeWantedByAllRanks) {
  const auto world = ranks::Communicator::world();
  auto wanted = wanted_by(world.size());
  wanted.back().clear();
  EarlierColumns columns(plain, wanted, world.rank(), Precision::float64);
  const std::vector<double> row(n, 7.0);
  for (const auto& run : plain) {
    for (auto i = run.begin; i < run.end; ++i) {
      if (i % world.size() == world.rank()) columns.note({i, i + 1}, row.data(), n);
    }
  }
  columns.exchange(world);
  if (world.size() == 1) return;
  std::vector<double> found(n, 0.0);
  columns.fill({0, 1}, found.data(), n);
  EXPECT_EQ(std::count(found.begin(), found.end(), 7.0), world.is_root() ? 9 : 0);
}

// Some of them are read from a file, as far as it has been written, for half of each rank's rows at a time.
TEST(EarlierColumns, AreReadFromTheFileForSomeRowsAtATime) {
  const auto world = ranks::Communicator::world();
  const auto wanted = wanted_by(world.size());
  EarlierColumns columns(plain, wanted, world.rank(), Precision::float64);
  const std::vector<double> in_memory = [] {
    std::vector<double> row;
    for (std::int64_t j = 0; j < n; ++j) row.push_back(number(20, j));
    return row;
  }();
  for (const auto& run : plain) {
    for (auto i = run.begin; i < run.end; ++i) {
      if (i % world.size() != world.rank()) continue;
      if (i == 20) {
        columns.note({i, i + 1}, in_memory.data(), n);
      } else {
        columns.note_in_file({i, i + 1});
      }
    }
  }
  std::int64_t read = 0;
  const auto from_file = [&](const Rows& rows, const Rows& some, char* numbers) {
    auto* to = reinterpret_cast<double*>(numbers);
    for (auto i = rows.begin; i < rows.end; ++i) {
      for (auto j = some.begin; j < some.end; ++j) *to++ = number(i, j);
    }
    read += rows.count() * some.count();
  };
  std::int64_t brought = 0;
  for (const int half : {0, 1}) {
    std::vector<std::vector<Rows>> rows;
    for (const auto& runs : wanted) {
      std::vector<Rows> some;
      for (const auto& run : runs) {
        const auto middle = run.begin + run.count() / 2;
        const Rows part = half == 0 ? Rows{run.begin, middle} : Rows{middle, run.end};
        if (part.count() > 0) some.push_back(part);
      }
      rows.push_back(some);
      brought += matrix::count_of(some);
    }
    columns.exchange(rows, from_file, world);
    for (const auto& run : rows[static_cast<std::size_t>(world.rank())]) {
      for (auto i = run.begin; i < run.end; ++i) {
        std::vector<double> row(n, -1);
        columns.fill({i, i + 1}, row.data(), n);
        for (const auto j : {3, 6, 20, 30, 33}) ASSERT_EQ(row[static_cast<std::size_t>(j)], number(i, j)) << i;
        ASSERT_EQ(row[7], -1);
      }
    }
  }
  EXPECT_EQ(world.sum(read), brought * (matrix::count_of(plain) - 1));
}

// More than go to a rank in one round, many neighbours at a time, from a column on.
TEST(EarlierColumns, ComeInSeveralRoundsForManyRows) {
  const auto world = ranks::Communicator::world();
  constexpr std::int64_t earlier = 3000;
  constexpr std::int64_t all = 2 * earlier;
  const auto of_rank = [&](int rank) {
    return Rows{earlier + earlier * rank / world.size(), earlier + earlier * (rank + 1) / world.size()};
  };
  std::vector<std::vector<Rows>> wanted;
  wanted.reserve(static_cast<std::size_t>(world.size()));
  for (int rank = 0; rank < world.size(); ++rank) wanted.push_back({of_rank(rank)});
  EarlierColumns columns({{0, 1000}, {1000, earlier}}, wanted, world.rank(), Precision::float32);
  EXPECT_EQ(columns.columns(), (Rows{earlier, all}));
  constexpr std::int64_t at_once = 250;
  std::vector<float> numbers(at_once * earlier);
  for (auto i = at_once * world.rank(); i < earlier; i += at_once * world.size()) {
    for (std::int64_t k = 0; k < at_once * earlier; ++k) {
      const auto place = (i + k / earlier) * all + earlier + k % earlier;
      numbers[static_cast<std::size_t>(k)] = static_cast<float>(place);
    }
    columns.note({i, i + at_once}, numbers.data(), earlier, earlier);
  }
  columns.exchange(world);
  const Rows own = of_rank(world.rank());
  constexpr std::int64_t some = 100;
  std::vector<float> rows(static_cast<std::size_t>(some * all));
  for (auto first = own.begin; first < own.end; first += some) {
    std::fill(rows.begin(), rows.end(), -1.0F);
    columns.fill({first, first + some}, rows.data(), all);  // of the last, others may be another rank's, or nobody's
    for (std::int64_t k = 0; k < some * all; ++k) {
      const auto i = first + k / all;
      const auto j = k % all;
      const bool is_there = i < own.end && j < earlier;
      ASSERT_EQ(rows[static_cast<std::size_t>(k)], is_there ? static_cast<float>(j * all + i) : -1) << i << ", " << j;
    }
  }
}

TEST(EarlierColumns, MayBeNotedOnSeveralRanksOrAllOnOne) {
  expect_columns<float>([](std::int64_t, int, int) { return true; });
  expect_columns<float>([](std::int64_t, int rank, int ranks) { return rank == ranks - 1; });
}

TEST(EarlierColumns, AreMissedWhereNoRankHasNotedThem) {
  const auto world = ranks::Communicator::world();
  EarlierColumns columns(plain, wanted_by(world.size()), world.rank(), Precision::float64);
  const std::vector<double> row(n, 1.0);
  for (std::int64_t i = 3; i < 7; ++i) columns.note({i, i + 1}, row.data(), n);
  EXPECT_THROW(columns.exchange(world), ranks::AgreedError);
}

}  // namespace
}  // namespace hessian_mpi::layers
