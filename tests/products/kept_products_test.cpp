// Products in a file: found again by whoever has the vector, on any number of ranks, and by nobody where they are
// damaged or of another job.

#include "hessian_mpi/products/kept_products.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cmath>

#include "hessian_mpi/products/shared_sum.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::products {
namespace {

using Numbers = std::vector<double>;

constexpr std::int64_t n = 150'001;
constexpr double too_long_to_leave_out = 61;  // seconds

file::StoredLayout job(const std::string& loss) {
  file::StoredLayout layout;
  layout.index.append("weight", {n});
  layout.matrix = matrix::matrix_of(layout.index, Precision::float64, Entries::all);
  layout.value.assign(n, 1.5);
  layout.attributes = {{"loss", loss}, {"threads", std::int64_t{2}}, {"created", std::string("today")}};
  return layout;
}

class KeptProductsTest : public testing::Test {
 protected:
  // This rank's numbers of vector k.
  Numbers vector(int k, double moved = 0) const {
    Numbers own;
    for (auto i = own_.begin; i < own_.end; ++i)
      own.push_back(std::sin(static_cast<double>((k + 1) * i)) + (i % 2 == 0 ? moved : -moved));
    return own;
  }
  Numbers product(int k) const {
    auto own = vector(k);
    for (auto& x : own) x = 1 / (x + 3);
    return own;
  }
  KeptProducts open(const std::string& loss = "mse") const { return {path_, job(loss), own_, false, world_}; }
  void keep(int count) const {
    auto kept = open();
    for (int k = 0; k < count; ++k) add(kept, k);
    kept.bring_to_disk();
  }
  void add(KeptProducts& kept, int k, double seconds = too_long_to_leave_out) const {
    kept.add(kept.head_of(vector(k).data()), product(k).data(), seconds);
  }
  bool finds(KeptProducts& kept, int k, double moved = 0, Match match = Match::rounding) const {
    Numbers found(static_cast<std::size_t>(own_.count()));
    return kept.find(kept.head_of(vector(k, moved).data()), match, found.data()) &&
           world_.min(std::int64_t{found == product(k)}) == 1;
  }

  ranks::Communicator world_ = ranks::Communicator::world();
  Rows own_ = elements_of_rank(n, world_.rank(), world_.size());
  SharedFolder folder_{world_};
  std::filesystem::path path_ = folder_ / "out.h5.products";
};

TEST_F(KeptProductsTest, AreFoundByTheNextRun) {
  keep(3);
  auto kept = open();
  EXPECT_EQ(kept.earlier(), 3);
  for (const int k : {2, 0, 1}) EXPECT_TRUE(finds(kept, k)) << k;
  EXPECT_FALSE(finds(kept, 3));
  add(kept, 3);
  EXPECT_TRUE(finds(kept, 3));
  EXPECT_EQ(kept.count(), 4);
}

TEST_F(KeptProductsTest, AVectorMayDifferInRoundingAlone) {
  keep(1);
  auto kept = open();
  EXPECT_TRUE(finds(kept, 0, 1e-14));
  EXPECT_FALSE(finds(kept, 0, 1e-10));
  EXPECT_TRUE(finds(kept, 0, 0, Match::bits));
  EXPECT_FALSE(finds(kept, 0, 1e-14, Match::bits));
}

TEST_F(KeptProductsTest, WhatIsDamagedOrTornIsMadeAgain) {
  keep(3);
  const auto bytes = open().bytes_of_one();
  world_.on_root([&] {
    const system::PosixFile file(path_, O_RDWR);
    const auto end = file.size();
    const double wrong = 7;
    file.write(end - 2 * bytes - sizeof wrong, &wrong, sizeof wrong);  // the last number of the first product
    file.resize(end - 8);                                              // which tears the third
  });
  auto kept = open();
  EXPECT_EQ(kept.earlier(), 2);
  EXPECT_FALSE(finds(kept, 0));
  EXPECT_TRUE(finds(kept, 1));
  EXPECT_FALSE(finds(kept, 2));
  add(kept, 0);
  EXPECT_TRUE(finds(kept, 0)) << "made again";
}

TEST_F(KeptProductsTest, WhatIsQuicklyMadeMayBeLeftOut) {
  constexpr int count = 8;
  std::int64_t there = 0;
  {
    auto kept = open();
    for (int k = 0; k < count; ++k) add(kept, k, 0);
    EXPECT_EQ(kept.made(), count);
    EXPECT_TRUE(finds(kept, 0)) << "nothing was being written before it";
    for (int k = 0; k < count; ++k) there += finds(kept, k) ? 1 : 0;
    EXPECT_EQ(there, kept.count());
    kept.bring_to_disk();
  }
  auto kept = open();
  EXPECT_EQ(kept.earlier(), there);
  for (int k = 0; k < count; ++k) there -= finds(kept, k) ? 1 : 0;
  EXPECT_EQ(there, 0);
}

TEST_F(KeptProductsTest, OfAnotherJobTheyAreRefused) {
  keep(1);
  try {
    open("l1");
    ADD_FAILURE();
  } catch (const ranks::AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    EXPECT_NE(std::string(error.what()).find("loss: mse in the file, l1 now"), std::string::npos) << error.what();
  }
  world_.on_root([&] { system::PosixFile(path_, O_RDWR).resize(10); });
  EXPECT_THROW(open(), ranks::AgreedError) << "no such file";
}

}  // namespace
}  // namespace hessian_mpi::products
