#include "hessian_mpi/network/rounding.hpp"

#include <algorithm>
#include <limits>
#include <memory>

#include "hessian_mpi/network/operator_observer.hpp"

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

class Coarsest final : public OperatorObserver {
 public:
  double epsilon() const { return epsilon_; }

 private:
  std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) override {
    for (const auto& value : arguments_of(function)) {
      if (!value.isTensor() || !value.toTensor().defined()) continue;
      epsilon_ = std::max(epsilon_, epsilon_of(value.toTensor().scalar_type()));
    }
    return nullptr;
  }

  double epsilon_ = 0;
};

}  // namespace

double coarsest_epsilon(const Problem& problem) {
  const Coarsest coarsest;
  problem.loss(0);
  return std::max(coarsest.epsilon(),
                  epsilon_of(problem.precision() == Precision::float32 ? torch::kFloat32 : torch::kFloat64));
}

}  // namespace hessian_mpi::network
