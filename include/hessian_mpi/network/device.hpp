#pragma once
/// Where a rank computes: on the CPU, or on one of its node's GPUs. What is made on a GPU is copied to the host, where
/// blocks are put together, written and checked.

#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>

#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {

/// GPUs that LibTorch sees on this node. Throws InputError where it was built without them.
int gpus_of_node();

/// For a person: what LibTorch can compute on here, and with which instructions of the CPU.
std::string text_of_devices();

/// A part of the work on another thread than the one that made the DifferentiableKernels (kernels.hpp): each thread has
/// a current device, and a handler of warnings, of its own.
class OnDevice {
 public:
  explicit OnDevice(c10::Device device) : here_(device) {}

 private:
  c10::DeviceGuard here_;
  c10::WarningUtils::WarningHandlerGuard quiet_{dropped_warnings()};
};

/// Whether random numbers were drawn on the device since its generator was seeded last.
bool has_drawn_random_numbers(c10::Device device);

/// "cpu" or "cuda".
const char* name_of(c10::Device device);

}  // namespace hessian_mpi::network
