#include "hessian_mpi/parallel_program.hpp"

#include <iostream>

namespace hessian_mpi {

int run_parallel_program(const char* name, int argc, char** argv,
                         const std::function<ExitCode(const Communicator& world)>& body) {
  const MpiSession mpi(argc, argv);
  const auto world = Communicator::world();
  try {
    return static_cast<int>(body(world));
  } catch (const AgreedError& error) {
    if (world.is_root()) std::cerr << name << ": error: " << error.what() << std::endl;
    if (error.afterwards() == AgreedError::Afterwards::finalise) return static_cast<int>(error.code());
    if (!world.is_root()) world.wait_for_all();  // until root ends them, which by now has told why
    abort_all_ranks(error.code());
  } catch (const std::exception& error) {  // on this rank alone: the others would wait for it
    std::cerr << name << ": error: rank " << world.rank() << " on " << world.host() << ": " << error.what()
              << std::endl;
    abort_all_ranks(ExitCode::failed);
  }
}

}  // namespace hessian_mpi
