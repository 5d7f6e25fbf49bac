#include "hessian_mpi/network/operator_observer.hpp"

#include <algorithm>

namespace hessian_mpi::network {
namespace {

// Callbacks are plain functions, which LibTorch takes along to threads of its own: there it is none.
thread_local OperatorObserver* observer_of_thread = nullptr;

}  // namespace

OperatorObserver::OperatorObserver(bool sees_ends) {
  observer_of_thread = this;
  const auto start = [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
    return observer_of_thread == nullptr ? nullptr : observer_of_thread->on_start(function);
  };
  const auto end = [](const at::RecordFunction& function, at::ObserverContext* context) {
    if (observer_of_thread != nullptr && context != nullptr) observer_of_thread->on_end(function, *context);
  };
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(start, end)
                                           .needsInputs(true)
                                           .needsOutputs(sees_ends)
                                           .scopes({at::RecordScope::FUNCTION}));
}

OperatorObserver::~OperatorObserver() {
  at::removeCallback(handle_);
  observer_of_thread = nullptr;
}

c10::ArrayRef<const c10::IValue> arguments_of(const at::RecordFunction& function) {
  const auto given = function.inputs();
  const auto count = std::min(given.size(), function.num_inputs());
  return given.slice(given.size() - count);
}

}  // namespace hessian_mpi::network
