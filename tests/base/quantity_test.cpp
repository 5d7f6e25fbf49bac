#include "hessian_mpi/base/quantity.hpp"

#include <gtest/gtest.h>

#include "expect_error.hpp"

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

TEST(ParseBytes, CountsInPowersOf1024) {
  EXPECT_EQ(parse_bytes("4096"), 4096U);
  EXPECT_EQ(parse_bytes("1"), 1U);
  EXPECT_EQ(parse_bytes("1K"), 1024U);
  EXPECT_EQ(parse_bytes("512M"), 536'870'912U);
  EXPECT_EQ(parse_bytes("2G"), 2'147'483'648U);
  EXPECT_EQ(parse_bytes("1T"), 1'099'511'627'776U);
  EXPECT_EQ(parse_bytes("1.5G"), 1'610'612'736U);
}

TEST(ParseBytes, TakesTheUnitsThatPeopleWrite) {
  for (const auto* word : {"2G", "2g", "2GB", "2Gb", "2GiB", "2 G", "2 GiB"}) {
    EXPECT_EQ(parse_bytes(word), 2'147'483'648U) << word;
  }
  EXPECT_EQ(parse_bytes("100B"), 100U);
}

TEST(ParseBytes, RefusesAllElse) {
  for (const auto* word :
       {"", "G", "-1", "-2G", "0", "0.5", "2X", "2GG", "2 G 3", "1e30", "inf", "nan", "2GiBB", "much"}) {
    expect_input_error([&] { parse_bytes(word); }, {std::string("'") + word + "'"});
  }
}

}  // namespace
}  // namespace hessian_mpi
