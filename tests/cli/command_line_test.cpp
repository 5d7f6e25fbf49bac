#include "hessian_mpi/cli/command_line.hpp"

#include <gtest/gtest.h>

namespace hessian_mpi::cli {
namespace {

TEST(OptionsOfJob, AreThoseOfItsCommandLineWithoutThePlan) {
  EXPECT_EQ(options_of_job("hessian_mpi --model net.pt --plan --dtype float64"), " --model net.pt --dtype float64");
  EXPECT_EQ(options_of_job("hessian_mpi --plan"), "");
  EXPECT_EQ(options_of_job("hessian_mpi --config a.conf --plan"), " --config a.conf");
  for (const auto* line : {"hessian_mpi --config a.conf --seed 1", "hessian_mpi --config=a.conf --seed 1"}) {
    EXPECT_EQ(options_of_job(line, "--l2 2"), " --seed 1 --l2 2");
    EXPECT_EQ(options_of_job(line, ""), " --seed 1");
  }
}

TEST(CommandLineToResume, ResumesOnceAndOverwritesNothing) {
  EXPECT_EQ(command_line_to_resume("hessian_mpi --overwrite -o a.h5"), "hessian_mpi -o a.h5 --resume");
  EXPECT_EQ(command_line_to_resume("hessian_mpi --resume -o a.h5"), "hessian_mpi --resume -o a.h5");
  EXPECT_EQ(command_line_to_resume("hessian_mpi -o 'my  --overwriting.h5'"),
            "hessian_mpi -o 'my  --overwriting.h5' --resume");
}

TEST(CommandLineForWhole, LeavesOutThePartAndItsFile) {
  const auto* whole = "hessian_mpi --seed 3 --output 'all rows.h5' --resume";
  for (const auto* part :
       {"hessian_mpi --rows 0/3 --output p.h5 --seed 3", "hessian_mpi --seed 3 -o 'p 0.h5' --rows=0:5",
        "hessian_mpi -op.h5 --resume --rows 1/3 --overwrite --seed 3"}) {
    EXPECT_EQ(command_line_for_whole(part, "all rows.h5").find(" --rows"), std::string::npos) << part;
  }
  EXPECT_EQ(command_line_for_whole("hessian_mpi --rows 0/3 --output 'p 0.h5' --seed 3", "all rows.h5"), whole);
  EXPECT_EQ(command_line_for_whole("hessian_mpi --seed 3 -o --rows --rows=0:5", "all rows.h5"), whole);
}

}  // namespace
}  // namespace hessian_mpi::cli
