#include "hessian_mpi/device.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>

#include "hessian_mpi/error.hpp"
#include "hessian_mpi/printable.hpp"

namespace hessian_mpi {
namespace {

c10::Device gpu_of_rank(const Communicator& communicator) {
  if (!at::globalContext().hasCUDART()) {
    throw InputError(
        "--device cuda: this LibTorch was built without CUDA; build hessian_mpi with one that knows GPUs, or use "
        "--device cpu");
  }
  const auto gpus = static_cast<int>(at::getNumGPUs());
  if (gpus == 0) {
    throw InputError(text("--device cuda: rank ", communicator.rank(), " sees no GPU on ", communicator.host(),
                          "; ask the scheduler for GPUs (Slurm: --gres=gpu:1), or use --device cpu"));
  }
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(communicator.rank_on_node() % gpus)};
}

}  // namespace

c10::Device device_of_rank(DeviceChoice choice, const Communicator& communicator) {
  return communicator.together(
      [&] { return choice == DeviceChoice::cuda ? gpu_of_rank(communicator) : c10::Device(c10::kCPU); });
}

void use_device(c10::Device device) {
  if (device.is_cpu()) return;
  // Without it cuBLAS may add in another order from one call to the next. What the user has set stays.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  auto& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/true);
  context.setDeterministicFillUninitializedMemory(false);
  context.setAllowTF32CuBLAS(false);
  context.setAllowTF32CuDNN(false);
  context.setSDPUseCuDNN(false);
}

bool has_drawn_random_numbers(c10::Device device) {
  const auto& generator = at::globalContext().defaultGenerator(device);
  if (!device.is_cpu()) return generator.get_offset() != 0;
  return !generator.get_state().equal(at::detail::createCPUGenerator(generator.current_seed()).get_state());
}

const char* name_of(c10::Device device) {
  return device.is_cpu() ? "cpu" : "cuda";
}

}  // namespace hessian_mpi
