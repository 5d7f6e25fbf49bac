#include "hessian_mpi/cli/parallel_program.hpp"

#include <iostream>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/exception_words.hpp"
#include "hessian_mpi/cli/version.hpp"

namespace hessian_mpi::cli {

int run_parallel_program(const char* name, int argc, char** argv,
                         const std::function<ExitCode(const ranks::Communicator& world)>& body) {
  const ranks::MpiSession mpi(argc, argv);
  const auto world = ranks::Communicator::world();
  try {
    return static_cast<int>(body(world));
  } catch (const ranks::AgreedError& error) {
    const auto* kind = error.code() == ExitCode::stopped ? "" : "error: ";
    if (world.is_root()) std::cerr << name << ": " << kind << error.what() << std::endl;
    if (error.afterwards() == ranks::AgreedError::Afterwards::finalise) return static_cast<int>(error.code());
    if (!world.is_root()) world.wait_for_all();  // until root ends them, which by now has told why
    ranks::abort_all_ranks(error.code());
  } catch (const std::exception& error) {  // on this rank alone: the others would wait for it
    std::cerr << name << ": error: rank " << world.rank() << " on " << world.host() << ": " << words_of(error)
              << std::endl;
    ranks::abort_all_ranks(ExitCode::failed);
  }
}

void print_versions(std::ostream& out, const ProgramText& program) {
  const auto v = versions();
  out << program.name << ' ' << v.hessian_mpi << '\n' << v.mpi << "\nHDF5 " << v.hdf5 << '\n';
  if (!program.libraries.empty()) out << program.libraries << '\n';
}

void say(const ranks::Communicator& world, const std::string& what, const std::string& words) {
  constexpr std::size_t width = 12;
  if (world.is_root()) std::cout << what << std::string(width - what.size(), ' ') << words << std::endl;
}

}  // namespace hessian_mpi::cli
