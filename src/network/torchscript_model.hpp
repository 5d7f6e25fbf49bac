#pragma once
/// A TorchScript module (torch.jit.save) as a Model.

#include <torch/csrc/jit/runtime/print_handler.h>
#include <torch/script.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "casts.hpp"
#include "hessian_mpi/network/model.hpp"
#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {

class TorchScriptModel final : public Model {
 public:
  explicit TorchScriptModel(torch::jit::Module module);

  std::string format() const override { return "TorchScript"; }
  std::vector<NamedTensor> parameters() const override;
  /// Buffers among them are optional: the file does not say whether they are persistent.
  std::vector<StateTensor> state() const override;
  std::vector<std::string> input_names() const override;
  /// Tensors and devices in the code, and devices in attributes, are moved too; dtypes in the code are as Casts has
  /// them. Only the first call may change the device: forward() goes on with the code that it began with.
  void convert(torch::Dtype dtype, torch::Device device) override;
  void keep_casts(bool keep) override { casts_are_kept_ = keep; }
  /// Throws InputError where tracing or freezing has written the other mode into the code.
  void set_mode(Mode mode) override;
  /// Runs on copies of the buffers and of all other state, so that neither what the module changes in them nor undoing
  /// it reaches tensors that the autograd graph of the result keeps.
  c10::IValue forward(const std::vector<c10::IValue>& arguments) override;

 private:
  torch::jit::Module module_;
  std::optional<torch::Device> device_of_code_;  // as convert() has set it
  std::vector<torch::Dtype> dtypes_of_file_;
  std::vector<NamedDtype> state_of_file_;
  std::map<const c10::TensorImpl*, torch::Dtype> dtype_of_file_;  // of each tensor, which keeps its place
  bool casts_are_kept_ = false;
  Casts casts_;
};

/// Loads a module onto the CPU. Nothing in it runs. Throws InputError naming the file where it holds no TorchScript
/// module, is damaged, or would do more than compute with tensors: call an operator that touches files, run code while
/// it is read.
std::unique_ptr<TorchScriptModel> load_torchscript(const std::filesystem::path& file);

/// While it lives, the TorchScript optimiser and profiler are off for the process, all its threads: from the second
/// call on, compiled code has other (and sometimes wrong) second derivatives. Made before any scripted module is
/// loaded: a method keeps the executor of its first call. What a module prints is dropped, and so is what LibTorch
/// warns of on the calling thread.
class UnoptimisedTorchScript {
 public:
  UnoptimisedTorchScript();
  ~UnoptimisedTorchScript();
  UnoptimisedTorchScript(const UnoptimisedTorchScript&) = delete;
  UnoptimisedTorchScript& operator=(const UnoptimisedTorchScript&) = delete;

 private:
  bool executor_;
  bool profiling_;
  torch::jit::PrintHandler print_;
  c10::WarningUtils::WarningHandlerGuard quiet_{dropped_warnings()};
};

}  // namespace hessian_mpi::network
