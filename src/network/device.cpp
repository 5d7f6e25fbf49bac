#include "hessian_mpi/network/device.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::network {

int gpus_of_node() {
  if (!at::globalContext().hasCUDART()) {
    throw InputError(
        "--device cuda: this LibTorch was built without CUDA; build hessian_mpi with one that knows GPUs, or use "
        "--device cpu");
  }
  return static_cast<int>(at::getNumGPUs());
}

std::string text_of_devices() {
  const auto cpu = text("cpu with ", at::get_cpu_capability());
  if (!at::globalContext().hasCUDART()) return cpu + "; this LibTorch was built without CUDA";
  return text(cpu, "; cuda: ", at::getNumGPUs(), " GPUs");
}

bool has_drawn_random_numbers(c10::Device device) {
  const auto& generator = at::globalContext().defaultGenerator(device);
  if (!device.is_cpu()) return generator.get_offset() != 0;
  return !generator.get_state().equal(at::detail::createCPUGenerator(generator.current_seed()).get_state());
}

const char* name_of(c10::Device device) {
  return device.is_cpu() ? "cpu" : "cuda";
}

}  // namespace hessian_mpi::network
