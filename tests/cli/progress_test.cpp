#include "hessian_mpi/cli/progress.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <thread>

namespace hessian_mpi::cli {
namespace {

// Half of the embedded example after 10 seconds.
const ProgressState half{0.5, 10, 23365, 2'183'692'900};

bool contains(const std::string& whole, const std::string& part) {
  return whole.find(part) != std::string::npos;
}

std::size_t count_of(char character, const std::string& whole) {
  return static_cast<std::size_t>(std::count(whole.begin(), whole.end(), character));
}

TEST(ProgressLine, TellsRowsRateBytesAndTimeLeft) {
  const auto line = progress_line(half);
  EXPECT_TRUE(contains(line, "50 %")) << line;
  EXPECT_TRUE(contains(line, "11682 / 23365 rows")) << line;
  EXPECT_TRUE(contains(line, "1168 rows/s")) << line;
  EXPECT_TRUE(contains(line, "1.09 GB / 2.18 GB")) << line;
  EXPECT_TRUE(contains(line, "10 s left")) << line;
  EXPECT_FALSE(contains(line, "\n")) << line;
}

// A quarter took a minute: three minutes are left, whatever the size.
TEST(ProgressLine, EstimatesTheTimeLeftFromTheRateSoFar) {
  EXPECT_TRUE(contains(progress_line({0.25, 60, 1000, 4'000'000}), "3 min 00 s left"));
  EXPECT_TRUE(contains(progress_line({0.9, 90, 1000, 4'000'000}), "10 s left"));
  EXPECT_TRUE(contains(progress_line({0.01, 3600, 1000, 4'000'000}), "99 h 00 min left"));
}

// Half of the rows, but a tenth of the work: what comes takes longer than what was.
TEST(ProgressLine, EstimatesTheTimeLeftFromTheWorkWhereRowsDiffer) {
  const auto line = progress_line({0.5, 60, 1000, 4'000'000, 0, 540});
  EXPECT_TRUE(contains(line, "500 / 1000 rows")) << line;
  EXPECT_TRUE(contains(line, "9 min 00 s left")) << line;
}

TEST(ProgressLine, EndsWithNothingLeft) {
  const auto line = progress_line({1, 20, 23365, 2'183'692'900});
  EXPECT_TRUE(contains(line, "100 %")) << line;
  EXPECT_TRUE(contains(line, "23365 / 23365 rows")) << line;
  EXPECT_TRUE(contains(line, "2.18 GB / 2.18 GB")) << line;
  EXPECT_TRUE(contains(line, "0.0 s left")) << line;
}

TEST(ProgressLine, PromisesNothingBeforeTheFirstRow) {
  const auto line = progress_line({0, 0, 23365, 2'183'692'900});
  EXPECT_TRUE(contains(line, "0 / 23365 rows")) << line;
  EXPECT_FALSE(contains(line, "left")) << line;
  for (const auto* word : {"nan", "inf"}) EXPECT_FALSE(contains(line, word)) << line;
}

TEST(ProgressBar, ShowsTheSameFiguresAsTheLine) {
  const auto bar = progress_bar(half, 120);
  EXPECT_TRUE(contains(bar, progress_line(half))) << bar;
}

TEST(ProgressBar, FillsWithTheFraction) {
  const auto filled = [](double fraction) {
    return count_of('=', progress_bar({fraction, 10, 23365, 2'183'692'900}, 130));
  };
  const auto whole = filled(1);
  EXPECT_GE(whole, 10U);
  EXPECT_EQ(filled(0), 0U);
  EXPECT_EQ(filled(0.5), whole / 2);
  EXPECT_LT(filled(0.25), filled(0.75));
  EXPECT_EQ(count_of('>', progress_bar({1, 10, 23365, 2'183'692'900}, 130)), 0U);
  EXPECT_EQ(count_of('>', progress_bar(half, 130)), 1U);
}

TEST(ProgressBar, KeepsItsLengthWhileItFills) {
  const auto length = [](double fraction) { return progress_bar({fraction, 10, 23365, 2'183'692'900}, 130).find(']'); };
  const auto at_first = length(0);
  ASSERT_NE(at_first, std::string::npos);
  for (const double fraction : {0.01, 0.1, 0.333, 0.5, 0.9, 0.99, 1.0})
    EXPECT_EQ(length(fraction), at_first) << fraction;
}

// A bar that wraps leaves a line behind at each step.
TEST(ProgressBar, FitsTheTerminal) {
  for (int width = 1; width <= 200; ++width) {
    for (const double fraction : {0.0, 0.001, 0.5, 0.999, 1.0}) {
      const auto bar = progress_bar({fraction, 100'000, 123'456'789, 60'966'314'999'999'999}, width);
      EXPECT_LE(bar.size(), static_cast<std::size_t>(width)) << bar;
    }
  }
}

TEST(Progress, OfStyleNoneIsSilent) {
  std::ostringstream out;
  {
    Progress progress(ProgressStyle::none, 100, 0, 40000, 100, out);
    for (int i = 0; i < 100; ++i) progress.advance(1);
    progress.finish();
  }
  EXPECT_EQ(out.str(), "");
}

TEST(Progress, OfStylePlainEndsWithALineOfTheWhole) {
  std::ostringstream out;
  Progress progress(ProgressStyle::plain, 1000, 0, 4'000'000, 250, out);
  for (int i = 0; i < 249; ++i) progress.advance(1);
  EXPECT_EQ(out.str(), "") << "lines come seconds apart";
  progress.advance(1);
  progress.finish();
  EXPECT_EQ(count_of('\n', out.str()), 1U);
  EXPECT_EQ(count_of('\r', out.str()), 0U);
  EXPECT_TRUE(contains(out.str(), "1000 / 1000 rows")) << "the share of this rank stands for the job: " << out.str();
}

TEST(Progress, OfStyleBarRedrawsOneLine) {
  std::ostringstream out;
  Progress progress(ProgressStyle::bar, 1000, 0, 4'000'000, 250, out);
  progress.advance(125);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  progress.advance(0);
  EXPECT_TRUE(contains(out.str(), "500 / 1000 rows")) << out.str();
  EXPECT_EQ(count_of('\n', out.str()), 0U);
  progress.finish();
  EXPECT_EQ(count_of('\r', out.str()), 2U);
  EXPECT_EQ(count_of('\n', out.str()), 1U);
  EXPECT_EQ(out.str().back(), '\n');
}

TEST(Progress, OfStyleBarIsNotRedrawnForEveryRow) {
  std::ostringstream out;
  Progress progress(ProgressStyle::bar, 100'000, 0, 4'000'000, 100'000, out);
  for (int i = 0; i < 10'000; ++i) progress.advance(1);
  EXPECT_LE(count_of('\r', out.str()), 20U) << "ten thousand rows in milliseconds";
}

// Where an error ends the job, its message begins on a line of its own.
TEST(Progress, OfStyleBarLeavesItsLineWhenAbandoned) {
  std::ostringstream out;
  {
    Progress progress(ProgressStyle::bar, 1000, 0, 4'000'000, 250, out);
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    progress.advance(10);
  }
  EXPECT_EQ(out.str().back(), '\n');
}

TEST(Progress, OfStyleBarLeavesNothingWhenAbandonedUnseen) {
  std::ostringstream out;
  { const Progress progress(ProgressStyle::bar, 1000, 0, 4'000'000, 250, out); }
  EXPECT_EQ(out.str(), "");
}

TEST(Progress, NeverShowsMoreThanTheWhole) {
  std::ostringstream out;
  Progress progress(ProgressStyle::bar, 10, 0, 400, 10, out);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  progress.advance(25);
  EXPECT_TRUE(contains(out.str(), "10 / 10 rows")) << out.str();
}

// A quarter of the passes, and a tenth of all else: nine times the seconds beside passes are left, and three times
// those in them. Rows alone, or work without these seconds, would say another thing.
TEST(Progress, KnowsThatPassesHaveTheirOwnPace) {
  std::ostringstream out;
  Progress progress(ProgressStyle::bar, 1000, 0, 4'000'000, 1000, out, Work{400, 100});
  const auto begin = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  progress.advance(500, {100, 10}, 0.9);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto line = out.str();
  const auto place = line.rfind("  ");
  const double left = std::stod(line.substr(place));
  EXPECT_NEAR(left, 3 * 0.9 + 9 * (seconds - 0.9), 0.2) << line;
}

// At the pace of the last writes: the first ones went to memory.
TEST(Progress, ForgetsHowFastItOnceWrote) {
  std::ostringstream out;
  Progress progress(ProgressStyle::bar, 1000, 0, 4'000'000, 1000, out);
  for (int k = 0; k < 100; ++k) progress.wrote(1, 0.001);
  for (int k = 0; k < 400; ++k) progress.wrote(1, 0.1);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  progress.advance(990);
  EXPECT_TRUE(contains(out.str(), "50 s left")) << out.str();
}

TEST(Progress, OfARankWithoutRowsShowsNoNonsense) {
  std::ostringstream out;
  Progress progress(ProgressStyle::plain, 3, 0, 36, 0, out);
  progress.finish();
  EXPECT_TRUE(contains(out.str(), "3 / 3 rows")) << out.str();
}

TEST(ProgressLine, CountsRowsOfEarlierRunsButNotTheirTime) {
  // 600 of 1000 rows were there; half of the other 400 took 10 s.
  EXPECT_EQ(progress_line({0.5, 10, 1000, 4'000'000, 600}),
            " 80 %  800 / 1000 rows  20 rows/s  3.2 MB / 4 MB  10 s left");
}

TEST(ProgressBar, IsAsFullAsTheFile) {
  const auto bar = progress_bar({0, 1, 1000, 4'000'000, 500}, 120);
  EXPECT_EQ(std::count(bar.begin(), bar.end(), '='), 15) << bar;
}

}  // namespace
}  // namespace hessian_mpi::cli
