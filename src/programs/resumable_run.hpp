#pragma once
/// Programs whose work is products with a network: they stop when they are asked to, and go on where they were.

#include <boost/program_options.hpp>
#include <functional>
#include <string>

#include "hessian_mpi/ranks/communicator.hpp"
#include "matrix_options.hpp"
#include "open_network.hpp"

namespace hessian_mpi::programs {

/// Describes --resume and --time-limit.
void describe_resuming(boost::program_options::options_description& to);
/// Takes them. Throws InputError where they are given without a network.
void take_resuming(const boost::program_options::variables_map& given, MatrixOptions& options);

/// What a run is made of, both collective. between: as products::Network has it.
struct ResumableWork {
  std::function<OpenedMatrix(std::function<void()> between)> open;
  std::function<ExitCode(const OpenedMatrix&)> run;
  std::string vectors = {};  ///< a file that after::read_vectors() reads, which the work is with; or empty
  const char* dataset = "";  ///< of the output, where they are
};

/// Collective. Opens the matrix and does the work with it. With a network a signal or the time limit ends that by
/// AgreedError with ExitCode::stopped, and products are kept beside the output (kept_products.hpp) until the work is
/// done. program: its name, for warnings. With --resume an output that the same command has made of the same inputs is
/// all there is to do; throws InputError where these have changed since. Where the work ends in ExitCode::failed, this
/// throws that a check has failed.
ExitCode run_resumably(const char* program, const MatrixOptions& options, const ranks::Communicator& world,
                       const ResumableWork& work);

}  // namespace hessian_mpi::programs
