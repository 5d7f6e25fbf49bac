#include "hessian_mpi/cli/command_line.hpp"

#include <gtest/gtest.h>

namespace hessian_mpi::cli {
namespace {

TEST(OptionsOfJob, AreThoseOfItsCommandLineWithoutThePlan) {
  EXPECT_EQ(options_of_job("hessian_mpi --model net.pt --plan --dtype float64"), " --model net.pt --dtype float64");
  EXPECT_EQ(options_of_job("hessian_mpi --plan"), "");
}

TEST(CommandLineToResume, ResumesOnceAndOverwritesNothing) {
  EXPECT_EQ(command_line_to_resume("hessian_mpi --overwrite -o a.h5"), "hessian_mpi -o a.h5 --resume");
  EXPECT_EQ(command_line_to_resume("hessian_mpi --resume -o a.h5"), "hessian_mpi --resume -o a.h5");
  EXPECT_EQ(command_line_to_resume("hessian_mpi -o 'my  --overwriting.h5'"),
            "hessian_mpi -o 'my  --overwriting.h5' --resume");
}

}  // namespace
}  // namespace hessian_mpi::cli
