#include "hessian_mpi/run/version_details.hpp"

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/network/device.hpp"
#include "hessian_mpi/network/libtorch_version.hpp"
#include "hessian_mpi/system/node.hpp"
#include "hessian_mpi/system/surroundings.hpp"

namespace hessian_mpi::run {
namespace {

std::string text_of_place(const std::filesystem::path& output) {
  const auto place = system::file_system_of(output);
  const auto folder = std::filesystem::absolute(output).parent_path();
  std::error_code none;
  const auto free = std::filesystem::space(folder, none).available;
  return text(place.type, " (", place.source, " at ", place.mounted_at.string(), "), ",
              none ? text("no folder ", folder.string()) : text_of_bytes(free) + " free");
}

}  // namespace

void print_version_details(std::ostream& out, const std::filesystem::path& output, const ranks::Communicator& world) {
  cli::print_line(out, "program", std::filesystem::read_symlink("/proc/self/exe").string());
  cli::print_line(out, "compiler", HESSIAN_MPI_COMPILER);
  cli::print_line(out, "LibTorch",
                  text(system::loaded_library("libtorch_cpu").string(), ", built with ", network::libtorch_of_build()));
  cli::print_line(out, "MPI", system::loaded_library("libmpi").string());
  cli::print_line(out, "HDF5", system::loaded_library("libhdf5").string());
  cli::print_line(out, "solvers", HESSIAN_MPI_SOLVER_LIBRARIES);
  cli::print_line(out, "ranks", text(world.size(), ", this one on ", world.host()));
  cli::print_line(out, "machine", system::text_of_machine());
  cli::print_line(out, "memory", text(text_of_bytes(system::available_memory()), " available"));
  cli::print_line(out, "devices", network::text_of_devices());
  cli::print_line(out, "output", text_of_place(output));
}

}  // namespace hessian_mpi::run
