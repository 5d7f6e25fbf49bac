#include "hessian_mpi/run/report.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>

namespace hessian_mpi::run {
namespace {

// The line of a text that begins with the words, without the spaces before and after it; empty where there is none.
std::string line_of(const std::string& text, const std::string& words) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line.erase(0, line.find_first_not_of(' '));
    if (line.rfind(words + " ", 0) == 0) return line.substr(line.find_first_not_of(' ', words.size()));
  }
  return "";
}

template <class Printed>
std::string printed(const Printed& what) {
  std::ostringstream out;
  print(out, what);
  return out.str();
}

Announcement announcement() {
  Announcement a;
  a.version = "0.1.0";
  a.ranks = 4;
  a.threads = 2;
  a.model = "net.pt2 (exported program)";
  a.data = "batch.h5";
  a.samples = 1000;
  a.batches = 8;
  a.loss = "cross_entropy";
  a.reduction = Reduction::sum;
  a.method = "rows";
  a.tensors = 4;
  a.matrix = {matrix::BlockGrid(23365, 23365 * 4), 23365, Precision::float32};
  a.dtype = Precision::float64;
  a.output = "out/hessian.h5";
  return a;
}

TEST(Announcement, TellsWhatTheRunIsGoingToDo) {
  const auto told = printed(announcement());
  EXPECT_EQ(told.substr(0, told.find('\n')), "hessian_mpi 0.1.0 on 4 ranks, 2 threads each");
  EXPECT_EQ(line_of(told, "model"), "net.pt2 (exported program)");
  EXPECT_EQ(line_of(told, "data"), "batch.h5, 1000 samples in 8 batches");
  EXPECT_EQ(line_of(told, "loss"), "cross_entropy, sum, derived in float64");
  EXPECT_EQ(line_of(told, "parameters"), "N = 23365 in 4 tensors");
  EXPECT_EQ(line_of(told, "Hessian"), "23365 x 23365 float32, 2.18 GB");
  EXPECT_EQ(line_of(told, "method"), "rows");
  EXPECT_EQ(line_of(told, "output"), "out/hessian.h5");
  EXPECT_EQ(told.back(), '\n');
}

TEST(Announcement, CountsOneOfAThingInTheSingular) {
  auto one = announcement();
  one.ranks = one.threads = 1;
  one.samples = one.batches = one.tensors = 1;
  const auto told = printed(one);
  EXPECT_EQ(told.substr(0, told.find('\n')), "hessian_mpi 0.1.0 on 1 rank, 1 thread each");
  EXPECT_EQ(line_of(told, "data"), "batch.h5, 1 sample in 1 batch");
  EXPECT_EQ(line_of(told, "parameters"), "N = 23365 in 1 tensor");
  one.by_inputs = true;
  EXPECT_EQ(line_of(printed(one), "inputs"), "N = 23365 in 1 tensor");
}

Summary summary() {
  Summary s;
  s.output = "out/hessian.h5";
  s.complete = true;
  s.matrix = {matrix::BlockGrid(2000, 16000), 2000, Precision::float64};
  s.loss = 1.609437912;
  s.gradient_norm = 0.125;
  s.largest = 12.5;
  s.checks.blocks_checked = 32;
  s.checks.blocks = 1024;
  s.checks.symmetry = {0, 1e-8, file::CheckOutcome::passed};
  s.checks.row = {2.5e-7, 1e-8, file::CheckOutcome::failed};
  s.checks.difference = {0.5, 1e-4, file::CheckOutcome::kinks};
  s.seconds.load = 0.5;
  s.seconds.gradient = 1.25;
  s.seconds.create = 0.01;
  s.seconds.rows = 8;
  s.seconds.passes = 5;
  s.seconds.exchange = 0.75;
  s.seconds.write = 2;
  s.seconds.checkpoints = 0.25;
  s.seconds.checks = 3;
  s.seconds.all = 15;
  s.peak_memory = 734'000'000;
  return s;
}

TEST(Summary, TellsWhatTheRunHasDone) {
  const auto told = printed(summary());
  EXPECT_EQ(told.substr(0, told.find('\n')), "out/hessian.h5: complete");
  EXPECT_EQ(line_of(told, "Hessian"), "2000 x 2000 float64, 32 MB");
  EXPECT_EQ(line_of(told, "loss"), "1.609437912");
  EXPECT_EQ(line_of(told, "gradient norm"), "0.125");
  EXPECT_EQ(line_of(told, "largest |H|"), "12.5");
  EXPECT_EQ(line_of(told, "verified"), "32 of 1024 row blocks");
  EXPECT_EQ(line_of(told, "symmetry error"), "0  passed (at most 1e-08)");
  EXPECT_EQ(line_of(told, "row error"), "2.5e-07  failed (at most 1e-08)");
  EXPECT_EQ(line_of(told, "gradient error"), "not checked");
  EXPECT_EQ(line_of(told, "difference error"),
            "0.5  kinks: the loss has no derivative at this point, nothing to compare with (at most 0.0001)");
  EXPECT_EQ(line_of(told, "seconds"),
            "load 0.5, gradient 1.25, create 0.01, rows 8 (passes 5, exchange 0.75), write 2 (checkpoints 0.25), "
            "checks 3; in all 15");
  EXPECT_EQ(line_of(told, "rows a second"), "250");
  EXPECT_EQ(line_of(told, "memory"), "734 MB on the largest rank");
}

TEST(Summary, TellsWhereTheFileIsNotComplete) {
  auto stopped = summary();
  stopped.complete = false;
  const auto told = printed(stopped);
  EXPECT_EQ(told.substr(0, told.find('\n')), "out/hessian.h5: NOT complete");
}

TEST(Summary, TellsWhatEarlierRunsHaveDone) {
  auto resumed = summary();
  EXPECT_EQ(line_of(printed(resumed), "resumed"), "");
  resumed.blocks_resumed = resumed.matrix.grid.count() / 2;
  const auto told = printed(resumed);
  EXPECT_EQ(line_of(told, "resumed"), "1000 row blocks, computed by earlier runs");
  EXPECT_EQ(line_of(told, "rows a second"), "125");
}

TEST(Announcement, TellsWhichPartOfTheRowsItIs) {
  auto part = announcement();
  part.matrix.grid = matrix::BlockGrid(23365, 23365 * 4, {100, 200});
  EXPECT_EQ(line_of(printed(part), "Hessian"), "rows 100:200 of 23365 x 23365 float32, 9.35 MB");
}

TEST(Summary, TellsWhichChecksWereNotMade) {
  auto unchecked = summary();
  unchecked.checks = {};
  const auto told = printed(unchecked);
  for (const auto* figure : {"symmetry error", "row error", "gradient error", "difference error"}) {
    EXPECT_EQ(line_of(told, figure), "not checked") << figure;
  }
  EXPECT_EQ(told.find("nan"), std::string::npos) << told;
}

TEST(Summary, HasNoRateWhereRowsTookNoTime) {
  auto instant = summary();
  instant.seconds.rows = 0;
  EXPECT_EQ(line_of(printed(instant), "rows a second"), "0");
}

TEST(Reports, LeaveTheStreamAsItWas) {
  std::ostringstream out;
  print(out, announcement());
  print(out, summary());
  const auto before = out.str().size();
  out << 0.1234567 << '|' << 7;
  EXPECT_EQ(out.str().substr(before), "0.123457|7");
}

}  // namespace
}  // namespace hessian_mpi::run
