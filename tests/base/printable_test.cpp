#include "hessian_mpi/base/printable.hpp"

#include <gtest/gtest.h>

namespace hessian_mpi {
namespace {

TEST(Printable, LeavesTextAsItIs) {
  for (const auto* text : {"", "conv.weight",
                           "Gr\xc3\xb6\xc3\x9f"
                           "e \xe2\x82\xac \xf0\x9f\x98\x80"}) {
    EXPECT_EQ(printable(text), text);
    EXPECT_TRUE(is_printable(text)) << text;
  }
}

TEST(Printable, HasNothingThatATerminalObeys) {
  EXPECT_EQ(printable("a\nb\r\x1b[2J\x7f"), "a b  [2J ");
  EXPECT_EQ(printable(std::string("a\0b", 3)), "a b");
  EXPECT_EQ(printable("a\xc2\x9b"
                      "b"),
            "a b");  // the one-character form of ESC [
  EXPECT_FALSE(is_printable("a\n"));
}

TEST(Printable, IsValidUtf8) {
  EXPECT_EQ(printable("\xff\xfe"), "??");
  EXPECT_EQ(printable("\xc3"), "?");                 // ends early
  EXPECT_EQ(printable("\xc0\xaf"), "??");            // longer than needed
  EXPECT_EQ(printable("\xe0\x80\xaf"), "???");       // the same
  EXPECT_EQ(printable("\xed\xa0\x80"), "???");       // a surrogate
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "????");  // beyond Unicode
  EXPECT_FALSE(is_printable("\xff"));
}

TEST(Printable, IsCutBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 3), "abc...");
  EXPECT_EQ(printable("ab\xe2\x82\xac", 3), "ab...");
  EXPECT_EQ(printable("abc", 3), "abc");
}

}  // namespace
}  // namespace hessian_mpi
