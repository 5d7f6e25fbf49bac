// main of every test: MPI is up while tests run, and only rank 0 reports passes, so that a log of four ranks reads like
// one.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdio>
#include <cstdlib>

#include "hessian_mpi/ranks/communicator.hpp"

namespace {

int run_tests(int argc, char** argv) {
  const hessian_mpi::ranks::MpiSession mpi(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  int failed = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  const int failed = run_tests(argc, argv);
  std::fflush(nullptr);
  std::_Exit(failed);  // the destructors of LibTorch's static objects take 0.15 s
}
