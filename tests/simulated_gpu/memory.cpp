// Memory that the host cannot touch: addresses no process has, each a fixed bit away from memory that it has.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/TensorImpl.h>
#include <malloc.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "simulated_gpu.hpp"

namespace simulated_gpu {
namespace {

constexpr std::uintptr_t no_address_of_a_process = std::uintptr_t{1} << 54;

void* to_device(void* host) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(host) | no_address_of_a_process);
}

void* to_host(const void* device) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(device) & ~no_address_of_a_process);
}

// SIMULATED_GPU_MEMORY: bytes of all devices together.
std::size_t memory_of_devices() {
  const char* const given = std::getenv("SIMULATED_GPU_MEMORY");
  return given == nullptr ? std::numeric_limits<std::size_t>::max() : std::stoull(given);
}

class DeviceMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, current_device()};
    void* const host = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    TORCH_CHECK(host != nullptr, "the host is out of memory");
    const auto before = in_use().fetch_add(malloc_usable_size(host));
    std::memset(host, 0xff, bytes);  // NaN: whoever takes it for zero is found out
    c10::DataPtr memory{to_device(host), host, &release, current_device()};
    TORCH_CHECK_WITH(OutOfMemoryError, before + bytes <= memory_of_devices(), "CUDA out of memory. Tried to allocate ",
                     bytes, " bytes.");
    return memory;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to_host(to), to_host(from), bytes);
  }

 private:
  static void release(void* host) {
    in_use() -= malloc_usable_size(host);
    std::free(host);
  }
  static std::atomic<std::size_t>& in_use() {
    static std::atomic<std::size_t> bytes{0};
    return bytes;
  }
};

class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    auto memory = c10::GetCPUAllocator()->allocate(bytes);
    const std::lock_guard lock(mutex());
    if (bytes > 0) pinned().insert(memory.get());
    void* const data = memory.get();
    return {data, memory.release_context(), &unpin, c10::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }

  static bool holds(const void* data) {
    const std::lock_guard lock(mutex());
    return pinned().contains(data);
  }

 private:
  static void unpin(void* data) {
    const std::lock_guard lock(mutex());
    pinned().erase(data);
    c10::GetCPUAllocator()->raw_deleter()(data);
  }
  // Never destroyed: tensors may be freed at the very end.
  static std::mutex& mutex() {
    static auto& one = *std::make_unique<std::mutex>().release();
    return one;
  }
  static std::set<const void*>& pinned() {
    static auto& all = *std::make_unique<std::set<const void*>>().release();
    return all;
  }
};

at::Tensor with_shape_of(const at::Tensor& like, at::Tensor tensor) {
  auto* const impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_offset(like.storage_offset());
  impl->set_sizes_and_strides(like.sizes(), like.strides());
  return tensor;
}

constexpr c10::DispatchKeySet on_gpu(c10::DispatchKey::CUDA);
constexpr c10::DispatchKeySet on_cpu(c10::DispatchKey::CPU);

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(sizes, device_memory(), on_gpu, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(sizes, strides, device_memory(), on_gpu, c10::dtype_or_default(dtype));
}

// Storage grows where it must and keeps what it holds; the shape is contiguous.
const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef sizes, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!format || *format == at::MemoryFormat::Contiguous, "not simulated: resize_ to a memory format");
  auto* const impl = self.unsafeGetTensorImpl();
  auto* const storage = impl->unsafe_storage().unsafeGetStorageImpl();
  const auto bytes = at::detail::computeStorageNbytesContiguous(sizes, self.itemsize(),
                                                                static_cast<std::size_t>(self.storage_offset()));
  if (bytes > storage->nbytes()) {
    const c10::DeviceGuard guard(self.device());
    auto larger = device_memory()->allocate(bytes);
    if (storage->nbytes() > 0) device_memory()->copy_data(larger.mutable_get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(larger));
    storage->set_nbytes(bytes);
  }
  impl->set_sizes_contiguous(sizes);
  return self;
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  c10::SetAllocator(c10::kCUDA, device_memory());
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize);
}

}  // namespace

c10::Allocator* device_memory() {
  static DeviceMemory memory;
  return &memory;
}

c10::Allocator* pinned_memory() {
  static PinnedMemory memory;
  return &memory;
}

bool is_pinned(const void* data) {
  return PinnedMemory::holds(data);
}

at::Tensor seen_by_kernels(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  const auto& storage = tensor.storage();
  c10::Storage host(c10::Storage::use_byte_size_t{}, storage.nbytes(), c10::DataPtr(to_host(storage.data()), c10::kCPU),
                    c10::GetCPUAllocator(),
                    /*resizable=*/true);
  auto seen = with_shape_of(tensor, at::detail::make_tensor<c10::TensorImpl>(std::move(host), on_cpu, tensor.dtype()));
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) seen.unsafeGetTensorImpl()->set_wrapped_number(true);
  seen._set_conj(tensor.is_conj());
  seen._set_neg(tensor.is_neg());
  return seen;
}

at::Tensor copied_to_device(const at::Tensor& tensor, c10::Device device) {
  const auto copy = at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device));
  seen_by_kernels(copy).copy_(tensor);
  return copy;
}

at::Tensor view_on_device(const at::Tensor& base, const at::Tensor& like) {
  return with_shape_of(like, at::detail::make_tensor<c10::TensorImpl>(
                                 c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), like.dtype()));
}

}  // namespace simulated_gpu
