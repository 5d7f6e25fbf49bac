// Devices, streams and events of the calling thread, as LibTorch asks for them.

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "simulated_gpu.hpp"

namespace simulated_gpu {
namespace {

thread_local c10::DeviceIndex current = 0;
thread_local std::array<c10::StreamId, devices> current_streams{};

struct Queue {
  std::deque<std::function<void()>> waiting;
  std::uint64_t done = 0;
  std::uint64_t end() const { return done + waiting.size(); }
};

// What streams that are not default ones hold.
struct Queues {
  std::recursive_mutex mutex;
  std::map<c10::StreamId, Queue> of_stream;
};

// Never destroyed: it may hold what nobody has waited for, at the very end.
Queues& queues() {
  static auto& all = *std::make_unique<Queues>().release();
  return all;
}

void finish_until(c10::StreamId stream, std::uint64_t end) {
  auto& [mutex, of_stream] = queues();
  const std::lock_guard lock(mutex);
  auto& queue = of_stream[stream];
  while (queue.done < end && !queue.waiting.empty()) {
    const auto work = std::move(queue.waiting.front());
    queue.waiting.pop_front();
    ++queue.done;
    work();
  }
}

// All that a stream held when the event was recorded on it.
struct Event {
  c10::StreamId stream;
  std::uint64_t end;
};

c10::Device with_index(c10::Device device) {
  return device.has_index() ? device : current_device();
}

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {c10::kCUDA, current}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.is_cuda() && device.index() < devices, "no such device: ", device);
    if (device.index() >= 0) current = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) current = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override { return devices; }

  c10::Stream getStream(c10::Device device) const override {
    const auto gpu = with_index(device);
    return c10::Stream(c10::Stream::UNSAFE, gpu, current_streams.at(static_cast<std::size_t>(gpu.index())));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, with_index(device));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    static std::atomic<c10::StreamId> last{0};
    return c10::Stream(c10::Stream::UNSAFE, with_index(device), ++last);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_streams.at(static_cast<std::size_t>(stream.device_index())) = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override {
    auto& [mutex, of_stream] = queues();
    const std::lock_guard lock(mutex);
    return of_stream[stream.id()].waiting.empty();
  }
  void synchronizeStream(const c10::Stream& stream) const override { finish(stream); }
  void synchronizeDevice(c10::DeviceIndex) const override {
    auto& [mutex, of_stream] = queues();
    const std::lock_guard lock(mutex);
    for (auto& [stream, queue] : of_stream) finish_until(stream, queue.end());
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag) const override {
    auto& [mutex, of_stream] = queues();
    const std::lock_guard lock(mutex);
    if (*event == nullptr) *event = std::make_unique<Event>().release();
    *static_cast<Event*>(*event) = {stream.id(), of_stream[stream.id()].end()};
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    const std::unique_ptr<Event> ended(static_cast<Event*>(event));
  }
  void block(void* event, const c10::Stream& stream) const override {
    const Event until = *static_cast<Event*>(event);
    enqueue(stream, [until] { finish_until(until.stream, until.end); });
  }
  bool queryEvent(void* event) const override {
    auto& [mutex, of_stream] = queues();
    const std::lock_guard lock(mutex);
    const auto& [stream, end] = *static_cast<Event*>(event);
    return of_stream[stream].done >= end;
  }
  void synchronizeEvent(void* event) const override {
    const auto& [stream, end] = *static_cast<Event*>(event);
    finish_until(stream, end);
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

}  // namespace

c10::Device current_device() {
  return {c10::kCUDA, current};
}

c10::Stream current_stream(c10::Device device) {
  return Guard().getStream(device);
}

void enqueue(c10::Stream stream, std::function<void()> work) {
  auto& [mutex, of_stream] = queues();
  const std::lock_guard lock(mutex);
  of_stream[stream.id()].waiting.push_back(std::move(work));
  if (stream.id() == 0) finish(stream);
}

void finish(c10::Stream stream) {
  auto& [mutex, of_stream] = queues();
  const std::lock_guard lock(mutex);
  finish_until(stream.id(), of_stream[stream.id()].end());
}

}  // namespace simulated_gpu
