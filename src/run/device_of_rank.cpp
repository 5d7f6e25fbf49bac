#include "hessian_mpi/run/device_of_rank.hpp"

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/device.hpp"

namespace hessian_mpi::run {

c10::Device device_of_rank(DeviceChoice choice, const ranks::Communicator& communicator) {
  return communicator.together([&]() -> c10::Device {
    if (choice != DeviceChoice::cuda) return c10::kCPU;
    const int gpus = network::gpus_of_node();
    if (gpus == 0) {
      throw InputError(text("--device cuda: rank ", communicator.rank(), " sees no GPU on ", communicator.host(),
                            "; ask the scheduler for GPUs (Slurm: --gres=gpu:1), or use --device cpu"));
    }
    return {c10::kCUDA, static_cast<c10::DeviceIndex>(communicator.rank_on_node() % gpus)};
  });
}

}  // namespace hessian_mpi::run
