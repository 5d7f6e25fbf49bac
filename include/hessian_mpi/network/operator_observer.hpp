#pragma once
/// What this thread calls of LibTorch, as it is called.

#include <ATen/record_function.h>

#include <memory>

namespace hessian_mpi::network {

/// Sees each operator that this thread calls while it lives. One at a time on a thread.
class OperatorObserver {
 public:
  OperatorObserver(const OperatorObserver&) = delete;
  OperatorObserver& operator=(const OperatorObserver&) = delete;

 protected:
  explicit OperatorObserver(bool sees_ends = false);
  virtual ~OperatorObserver();

 private:
  /// What it returns is there again at the end.
  virtual std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) = 0;
  /// Of those whose start has returned something.
  virtual void on_end(const at::RecordFunction&, at::ObserverContext&) {}

  at::CallbackHandle handle_;
};

/// What an operator is called with: the end of what the interpreter hands over, which is its whole stack.
c10::ArrayRef<const c10::IValue> arguments_of(const at::RecordFunction& function);

}  // namespace hessian_mpi::network
