#pragma once
/// Operators of LibTorch whose second derivative is wrong or missing, computed by others that have a right one.

#include <torch/library.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/network/operator_observer.hpp"

namespace hessian_mpi::network {

/// While it lives the process computes these operators by plain ones, in all formats of models and on all threads:
/// weight normalisation, distances, bags of embeddings, some losses; on a GPU also packed sequences, whose lengths
/// LibTorch wants on the host, and convolutions, without what tracing has written into the code about cuDNN. With them
/// go the derivatives of lean_derivatives.hpp. One at a time, made before a model is run.
class PlainOperators {
 public:
  PlainOperators();

 private:
  torch::Library on_cpu_;
  torch::Library on_gpu_;
};

/// Notes which operators with a rule are called on this thread while it lives.
class CalledOperators final : public OperatorObserver {
 public:
  CalledOperators();

  /// What is done about those that have been called, a sentence for each rule: "weight_norm is computed from g and v by
  /// plain operators: ...". In one order, whatever the order of calls.
  std::vector<std::string> cures() const;
  /// Why there is no Hessian, where one of those that have been called has a gradient that is that of no function.
  std::optional<std::string> refusal() const;

 private:
  std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) override;

  std::vector<bool> called_;
  bool scales_by_frequency_ = false;
};

}  // namespace hessian_mpi::network
