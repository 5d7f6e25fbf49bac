// What LibTorch asks of CUDA as a whole: whether it is there, how many devices, their generators.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Utils.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/GeneratorImpl.h>

#include <array>

#include "simulated_gpu.hpp"

namespace simulated_gpu {
namespace {

constexpr std::uint64_t draws_of_a_kernel = 4;

// Numbers come from a generator of the CPU; the offset counts kernels, as a GPU's does.
class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(c10::DeviceIndex device)
      : GeneratorImpl({c10::kCUDA, device}, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}

  void set_current_seed(std::uint64_t seed) override {
    numbers_.set_current_seed(seed);
    offset_ = 0;
  }
  void set_offset(std::uint64_t offset) override { offset_ = offset; }
  std::uint64_t get_offset() const override { return offset_; }
  std::uint64_t current_seed() const override { return numbers_.current_seed(); }
  std::uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return current_seed();
  }
  void set_state(const c10::TensorImpl&) override { TORCH_CHECK(false, "not simulated: a generator's state"); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    TORCH_CHECK(false, "not simulated: a generator's state");
  }

  void draw(const std::function<void()>& work) {
    auto& shared = at::detail::getDefaultCPUGenerator();
    const auto before = shared.get_state();
    auto of_cpu = shared;
    of_cpu.set_state(numbers_.get_state());
    work();
    const auto after = of_cpu.get_state();
    of_cpu.set_state(before);
    if (!after.equal(numbers_.get_state())) offset_ += draws_of_a_kernel;  // some draw in train mode alone
    numbers_.set_state(after);
  }

 private:
  GeneratorImpl* clone_impl() const override { TORCH_CHECK(false, "not simulated: a copy of a generator"); }

  at::Generator numbers_ = at::detail::createCPUGenerator();
  std::uint64_t offset_ = 0;
};

const std::array<at::Generator, devices>& generators() {
  static const std::array<at::Generator, devices> all{at::make_generator<Generator>(c10::DeviceIndex{0}),
                                                      at::make_generator<Generator>(c10::DeviceIndex{1})};
  return all;
}

}  // namespace

const at::Generator& generator_of(c10::DeviceIndex device) {
  return generators().at(static_cast<std::size_t>(device < 0 ? current_device().index() : device));
}

void with_generator_of(c10::Device device, const std::function<void()>& draw) {
  generator_of(device.index()).get<Generator>()->draw(draw);
}

}  // namespace simulated_gpu

namespace at {

// Here, since the registry's macro wants its classes in at.
struct SimulatedCUDAHooks final : CUDAHooksInterface {
  explicit SimulatedCUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  std::string showConfig() const override { return {}; }
  int getNumGPUs() const override { return simulated_gpu::devices; }
  DeviceIndex deviceCount() const override { return simulated_gpu::devices; }
  DeviceIndex current_device() const override { return simulated_gpu::current_device().index(); }
  DeviceIndex getCurrentDevice() const override { return simulated_gpu::current_device().index(); }
  Device getDeviceFromPtr(void*) const override { return simulated_gpu::current_device(); }
  bool isPinnedPtr(const void* data) const override { return simulated_gpu::is_pinned(data); }
  Allocator* getPinnedMemoryAllocator() const override { return simulated_gpu::pinned_memory(); }
  Allocator* getCUDADeviceAllocator() const override { return simulated_gpu::device_memory(); }
  const at::Generator& getDefaultGenerator(DeviceIndex device) const override {
    return simulated_gpu::generator_of(device);
  }
};

C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, SimulatedCUDAHooks)

}  // namespace at
