#include "hessian_mpi/network/rounding.hpp"

#include <ATen/record_function.h>

#include <algorithm>
#include <limits>
#include <memory>

namespace hessian_mpi::network {
namespace {

double epsilon_of(torch::Dtype dtype) {
  switch (c10::toRealValueType(dtype)) {
    case torch::kFloat64:
      return std::numeric_limits<double>::epsilon();
    case torch::kFloat32:
      return std::numeric_limits<float>::epsilon();
    case torch::kFloat16:
      return std::numeric_limits<c10::Half>::epsilon();
    case torch::kBFloat16:
      return std::numeric_limits<c10::BFloat16>::epsilon();
    default:  // float8 has several; none of them is finer
      return c10::isFloatingType(dtype) ? 0.125 : 0;
  }
}

// Looks at what operators are called with on this thread while it lives.
class Observer {
 public:
  Observer() {
    current() = this;
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(on_start).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  ~Observer() {
    at::removeCallback(handle_);
    current() = nullptr;
  }
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

  double coarsest() const { return coarsest_; }

 private:
  // Callbacks are plain functions: this is how they find the observer of their thread.
  static Observer*& current() {
    thread_local Observer* observer = nullptr;
    return observer;
  }
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
    Observer* observer = current();
    if (observer == nullptr) return nullptr;
    for (const auto& value : function.inputs()) {
      if (!value.isTensor() || !value.toTensor().defined()) continue;
      observer->coarsest_ = std::max(observer->coarsest_, epsilon_of(value.toTensor().scalar_type()));
    }
    return nullptr;
  }

  double coarsest_ = 0;
  at::CallbackHandle handle_ = 0;
};

}  // namespace

double coarsest_epsilon(const Problem& problem) {
  const Observer observer;
  problem.loss(0);
  return std::max(observer.coarsest(),
                  epsilon_of(problem.precision() == Precision::float32 ? torch::kFloat32 : torch::kFloat64));
}

}  // namespace hessian_mpi::network
