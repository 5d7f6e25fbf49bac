#pragma once
/// Where a rank computes: on the CPU, or on one of its node's GPUs. What is made on a GPU is copied to the host, where
/// blocks are put together, written and checked.

#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/torch_error.hpp"
#include "hessian_mpi/vocabulary.hpp"

namespace hessian_mpi {

/// Collective. The device of this rank: ranks of a node share its GPUs in turn. Throws InputError on all ranks where
/// --device cuda finds no GPU on one of them.
c10::Device device_of_rank(DeviceChoice choice, const Communicator& communicator);

/// Makes the device the calling thread's own, and its kernels such that they give the same numbers every time where
/// LibTorch has any, and no rounded ones (TF32). For the whole process; before a model is loaded.
void use_device(c10::Device device);

/// A part of the work on another thread than that of use_device(): each thread has a current device, and a handler of
/// warnings, of its own.
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

}  // namespace hessian_mpi
