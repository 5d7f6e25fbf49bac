#pragma once
/// GPUs for machines without any: a program that links this library finds two CUDA devices in a LibTorch for the CPU.
/// Their tensors are such as a real GPU's are to the program: on a device of their own, in memory that the host cannot
/// touch, copied late where a copy does not block. Operators compute on the host, in memory that only they see.
///
/// What it finds: tensors of two devices in one operator, data read where it is not, copies not waited for, work on
/// another thread or device than was meant, generators not seeded. What it cannot: kernels that differ from the CPU's
/// or from their formulas, kernels that want even single numbers on the GPU, kernels of the default stream that come
/// late, memory given back while a copy waits, cuDNN, sparse tensors, times.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>

namespace simulated_gpu {

inline constexpr c10::DeviceIndex devices = 2;

/// Of the calling thread.
c10::Device current_device();

/// Allocates on the current device. Its pointers end the program where the host follows them.
c10::Allocator* device_memory();

/// Of memory that copies to and from a GPU need not wait for.
c10::Allocator* pinned_memory();
bool is_pinned(const void* data);

/// The tensor on the device as one on the host, in the same memory. What is not on a device is returned as it is.
at::Tensor seen_by_kernels(const at::Tensor& tensor);

/// A copy of a tensor on the host.
at::Tensor copied_to_device(const at::Tensor& tensor, c10::Device device);

/// A tensor of the device with the storage of `base`, and shape, strides, offset and dtype of `like`.
at::Tensor view_on_device(const at::Tensor& base, const at::Tensor& like);

/// The calling thread's stream on a device.
c10::Stream current_stream(c10::Device device);

/// Does the work at once on a default stream, after what the stream holds. On another it waits until somebody asks for
/// it: as late as a GPU may be.
void enqueue(c10::Stream stream, std::function<void()> work);

/// Does what the stream holds.
void finish(c10::Stream stream);

/// Runs an operator that draws random numbers with those of the device.
void with_generator_of(c10::Device device, const std::function<void()>& draw);

/// The device's own.
const at::Generator& generator_of(c10::DeviceIndex device);

}  // namespace simulated_gpu
