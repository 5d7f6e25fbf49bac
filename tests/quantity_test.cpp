#include "hessian_mpi/quantity.hpp"

#include <gtest/gtest.h>

namespace hessian_mpi {
namespace {

TEST(TextOfBytes, HasThreeDigitsInPowersOf1000) {
  EXPECT_EQ(text_of_bytes(0), "0 B");
  EXPECT_EQ(text_of_bytes(850), "850 B");
  EXPECT_EQ(text_of_bytes(999), "999 B");
  EXPECT_EQ(text_of_bytes(1000), "1 kB");
  EXPECT_EQ(text_of_bytes(1536), "1.54 kB");
  EXPECT_EQ(text_of_bytes(94'800'000), "94.8 MB");
  EXPECT_EQ(text_of_bytes(2'183'692'900), "2.18 GB");
  EXPECT_EQ(text_of_bytes(5'000'000'000'000), "5 TB");
  EXPECT_EQ(text_of_bytes(1'230'000'000'000'000), "1.23 PB");
}

TEST(TextOfBytes, NeverRoundsToAThousandOfAUnit) {
  EXPECT_EQ(text_of_bytes(999'499), "999 kB");
  EXPECT_EQ(text_of_bytes(999'500), "1 MB");
  EXPECT_EQ(text_of_bytes(999'999'999'999), "1 TB");
}

TEST(TextOfSeconds, GrowsWithTheSpan) {
  EXPECT_EQ(text_of_seconds(0), "0.0 s");
  EXPECT_EQ(text_of_seconds(0.26), "0.3 s");
  EXPECT_EQ(text_of_seconds(9.9), "9.9 s");
  EXPECT_EQ(text_of_seconds(10), "10 s");
  EXPECT_EQ(text_of_seconds(59), "59 s");
  EXPECT_EQ(text_of_seconds(65), "1 min 05 s");
  EXPECT_EQ(text_of_seconds(3599), "59 min 59 s");
  EXPECT_EQ(text_of_seconds(7380), "2 h 03 min");
  EXPECT_EQ(text_of_seconds(100 * 3600), "100 h 00 min");
}

TEST(TextOfSeconds, CarriesWhatItRounds) {
  EXPECT_EQ(text_of_seconds(9.96), "10 s");
  EXPECT_EQ(text_of_seconds(59.6), "1 min 00 s");
  EXPECT_EQ(text_of_seconds(3599.7), "1 h 00 min");
}

}  // namespace
}  // namespace hessian_mpi
