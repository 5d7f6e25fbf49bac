// Every operator on a GPU's tensors: checked as a GPU's kernels check, and computed by the CPU's.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "simulated_gpu.hpp"

namespace simulated_gpu {
namespace {

using c10::IValue;

// Kernels of a GPU that take some tensors on the host as well, but for the first.
bool takes_tensors_of_the_host(std::string_view name) {
  constexpr std::array<std::string_view, 6> some{
      "aten::index.Tensor",     "aten::index.Tensor_out",      "aten::index_put_",
      "aten::_index_put_impl_", "aten::_pack_padded_sequence", "aten::_pack_padded_sequence_backward"};
  return std::find(some.begin(), some.end(), name) != some.end();
}

void append_tensors(const IValue& value, std::vector<at::Tensor>& found) {
  if (value.isTensor() && value.toTensor().defined()) found.push_back(value.toTensor());
  if (!value.isList()) return;
  for (const IValue& element : value.toListRef()) append_tensors(element, found);
}

// The device of an operator's tensors. Numbers may lie on the host.
std::optional<c10::Device> common_device(const c10::OperatorHandle& op, c10::ArrayRef<IValue> arguments) {
  std::vector<at::Tensor> tensors;
  for (const auto& argument : arguments) append_tensors(argument, tensors);
  const auto first = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) { return tensor.is_cuda(); });
  if (first == tensors.end()) return std::nullopt;
  const auto device = first->device();
  const auto other = std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) {
    return tensor.device() != device && !(tensor.is_cpu() && tensor.dim() == 0);
  });
  const auto name = c10::toString(op.operator_name());
  TORCH_CHECK(other == tensors.end() || (takes_tensors_of_the_host(name) && tensors.front().is_cuda()), name,
              ": Expected all tensors to be on the same device, but found at least two devices, ", device, " and ",
              other->device(), '!');
  return device;
}

IValue on_host(const IValue& value) {
  if (value.isTensor()) return seen_by_kernels(value.toTensor());
  if (value.isDevice()) return c10::Device(c10::kCPU);
  if (value.isList()) {
    const auto list = value.toList();
    c10::impl::GenericList all(list.elementType());
    for (const IValue& element : value.toListRef()) all.push_back(on_host(element));
    return all;
  }
  return value;
}

// What an operator writes into may have got another shape, and memory that the GPU does not have.
void take_over(const at::Tensor& on_device, const at::Tensor& computed) {
  if (computed.sizes() == on_device.sizes() && computed.storage().data() == seen_by_kernels(on_device).storage().data())
    return;
  on_device.resize_(computed.sizes());
  seen_by_kernels(on_device).copy_(computed);
}

class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack& stack)
      : op_(op),
        stack_(stack),
        given_(stack.end() - static_cast<std::ptrdiff_t>(op.schema().arguments().size()), stack.end()),
        device_(common_device(op, given_).value_or(device_asked_for())) {}

  void run() {
    const c10::DeviceGuard guard(device_);
    finish(current_stream(device_));
    std::vector<IValue> seen;
    for (const auto& argument : given_) seen.push_back(on_host(argument));
    stack_.erase(stack_.end() - static_cast<std::ptrdiff_t>(given_.size()), stack_.end());
    stack_.insert(stack_.end(), seen.begin(), seen.end());
    const auto compute = [&] { op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack_); };
    if (op_.hasTag(at::Tag::nondeterministic_seeded)) {
      with_generator_of(device_, compute);
    } else {
      compute();
    }
    take_over_what_was_written(seen);
    const auto& returns = op_.schema().returns();
    for (std::size_t r = 0; r < returns.size(); ++r) {
      auto& result = stack_[stack_.size() - returns.size() + r];
      result = on_device(result, returns[r], seen);
    }
  }

 private:
  c10::Device device_asked_for() const {
    for (const auto& argument : given_)
      if (argument.isDevice() && argument.toDevice().has_index()) return argument.toDevice();
    return current_device();
  }

  void take_over_what_was_written(const std::vector<IValue>& seen) const {
    for (std::size_t k = 0; k < given_.size(); ++k) {
      const auto* const alias = op_.schema().arguments()[k].alias_info();
      if (alias == nullptr || !alias->isWrite() || !given_[k].isTensor()) continue;
      if (given_[k].toTensor().is_cuda()) take_over(given_[k].toTensor(), seen[k].toTensor());
    }
  }

  IValue on_device(const IValue& result, const c10::Argument& returned, const std::vector<IValue>& seen) const {
    if (result.isTensor()) return on_device(result.toTensor(), returned, seen);
    if (!result.isTensorList()) return result;
    c10::List<at::Tensor> all;
    for (const IValue& element : result.toListRef()) all.push_back(on_device(element.toTensor(), returned, seen));
    return all;
  }

  at::Tensor on_device(const at::Tensor& result, const c10::Argument& returned, const std::vector<IValue>& seen) const {
    if (!result.defined()) return result;
    const auto* const alias = returned.alias_info();
    for (std::size_t k = 0; alias != nullptr && k < seen.size(); ++k) {
      if (!seen[k].isTensor() || !seen[k].toTensor().defined()) continue;
      const at::Tensor& argument = seen[k].toTensor();
      if (argument.is_same(result)) return given_[k].toTensor();
      if (argument.storage().data() == result.storage().data()) return view_on_device(given_[k].toTensor(), result);
    }
    return copied_to_device(result, device_);
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack& stack_;
  const std::vector<IValue> given_;
  const c10::Device device_;
};

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call(op, *stack).run();
}

// Between the host and a GPU, two GPUs, or on one. Into pinned memory it does not wait where it is asked not to.
at::Tensor& copy(at::Tensor& self, const at::Tensor& from, bool non_blocking) {
  const auto device = self.is_cuda() ? self.device() : from.device();
  const auto stream = current_stream(device);
  const auto& on_the_host = self.is_cuda() ? from : self;
  const bool may_be_late = non_blocking && (on_the_host.is_cuda() || is_pinned(on_the_host.storage().data()));
  enqueue(stream, [to = self.is_cuda() ? seen_by_kernels(self) : self, held = self, source = from]() mutable {
    const at::NoGradGuard no_grad;
    to.copy_(seen_by_kernels(source));
  });
  if (!may_be_late) finish(stream);
  return self;
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("copy_", copy);
  // By itself it would look for a kernel of the GPU's own.
  library.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

}  // namespace
}  // namespace simulated_gpu
