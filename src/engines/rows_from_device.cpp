#include "rows_from_device.hpp"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

namespace hessian_mpi::engines {
namespace {

constexpr std::int64_t bytes_at_once = 1 << 20;  // a quarter of a block of the file

template <class Number, class Element>
Number* converted(const at::Tensor& rows, Number* to) {
  const auto* const begin = rows.const_data_ptr<Element>();
  return std::transform(begin, begin + rows.numel(), to, [](Element x) { return static_cast<Number>(x); });
}

}  // namespace

template <class Number>
RowsFromDevice<Number>::RowsFromDevice(const at::TensorOptions& options, std::int64_t rows, std::int64_t columns,
                                       Number* out)
    : device_(options.device()), next_(out) {
  const auto fitting = bytes_at_once / (columns * static_cast<std::int64_t>(options.dtype().itemsize()));
  const auto at_once = std::clamp<std::int64_t>(fitting, 1, std::max<std::int64_t>(rows, 1));
  const bool on_gpu = !device_.is_cpu();
  if (on_gpu) copying_ = c10::impl::VirtualGuardImpl(device_.type()).getStreamFromGlobalPool(device_);
  for (auto& half : halves_) {
    half.on_device = at::empty({at_once, columns}, options);
    half.on_host = at::empty({at_once, columns}, options.device(at::kCPU).pinned_memory(on_gpu));
    if (on_gpu) half.copied.emplace(device_.type());
  }
}

template <class Number>
void RowsFromDevice<Number>::put(const at::Tensor& row) {
  auto& half = halves_[filled_];
  half.on_device.select(0, half.count++).copy_(row);
  if (half.count < half.on_device.size(0)) return;
  send(half);
  filled_ = 1 - filled_;
  receive(halves_[filled_]);
}

template <class Number>
void RowsFromDevice<Number>::send(Half& half) {
  const auto rows = half.on_device.narrow(0, 0, half.count);
  const auto to = half.on_host.narrow(0, 0, half.count);
  if (!copying_) {
    to.copy_(rows);
    return;
  }
  c10::Event made(device_.type());
  made.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  made.block(*copying_);
  const c10::StreamGuard on_copying_stream(*copying_);
  to.copy_(rows, /*non_blocking=*/true);
  half.copied->record(*copying_);
}

template <class Number>
void RowsFromDevice<Number>::receive(Half& half) {
  if (half.count == 0) return;
  if (half.copied) half.copied->synchronize();
  const auto rows = half.on_host.narrow(0, 0, half.count);
  next_ = rows.scalar_type() == at::kDouble ? converted<Number, double>(rows, next_)
                                            : converted<Number, float>(rows, next_);
  half.count = 0;
}

template <class Number>
void RowsFromDevice<Number>::finish() {
  receive(halves_[1 - filled_]);
  auto& last = halves_[filled_];
  if (last.count == 0) return;
  send(last);
  receive(last);
}

template class RowsFromDevice<float>;
template class RowsFromDevice<double>;

}  // namespace hessian_mpi::engines
