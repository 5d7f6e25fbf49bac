#pragma once
/// The frame of a program that runs under mpirun: MPI, one error message, the same exit code on every rank.

#include <functional>

#include "hessian_mpi/communicator.hpp"

namespace hessian_mpi {

/// Runs body between the start and the end of MPI and returns the exit code of main. name: the program's, before its
/// errors. body is collective; what it throws on one rank alone ends all.
int run_parallel_program(const char* name, int argc, char** argv,
                         const std::function<ExitCode(const Communicator& world)>& body);

}  // namespace hessian_mpi
