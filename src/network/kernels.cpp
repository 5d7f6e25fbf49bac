#include "hessian_mpi/network/kernels.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <functional>
#include <optional>
#include <utility>

#include "blaming_input.hpp"
#include "casts.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/device.hpp"
#include "plain_operators.hpp"
#include "torchscript_model.hpp"

namespace hessian_mpi::network {
namespace {

// Switches that are put back in the order opposite to that in which they were set.
class Switches {
 public:
  Switches() = default;
  ~Switches() {
    while (!undo_.empty()) {
      undo_.back()();
      undo_.pop_back();
    }
  }
  Switches(const Switches&) = delete;
  Switches& operator=(const Switches&) = delete;

  template <class Value, class Set>
  void change(Value before, Value wanted, Set set) {
    undo_.emplace_back([before, set] { set(before); });
    set(wanted);
  }

 private:
  std::vector<std::function<void()>> undo_;
};

void set_attention(Switches& switches) {
  auto& context = at::globalContext();
  switches.change(context.userEnabledFlashSDP(), false, [&](bool on) { context.setSDPUseFlash(on); });
  switches.change(context.userEnabledMemEfficientSDP(), false, [&](bool on) { context.setSDPUseMemEfficient(on); });
  switches.change(context.userEnabledMathSDP(), true, [&](bool on) { context.setSDPUseMath(on); });
}

void set_gpu(Switches& switches) {
  // Without it cuBLAS may add in another order from one call to the next. What the user has set stays.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  auto& context = at::globalContext();
  const bool warns = context.deterministicAlgorithmsWarnOnly();
  switches.change(std::pair(context.deterministicAlgorithms(), warns), std::pair(true, true),
                  [&](std::pair<bool, bool> how) { context.setDeterministicAlgorithms(how.first, how.second); });
  switches.change(context.deterministicFillUninitializedMemory(), false,
                  [&](bool on) { context.setDeterministicFillUninitializedMemory(on); });
  switches.change(context.allowTF32CuBLAS(), false, [&](bool on) { context.setAllowTF32CuBLAS(on); });
  switches.change(context.allowTF32CuDNN(), false, [&](bool on) { context.setAllowTF32CuDNN(on); });
  switches.change(context.userEnabledCuDNNSDP(), false, [&](bool on) { context.setSDPUseCuDNN(on); });
}

void derive_twice(const Problem& problem) {
  blaming_input(
      [&] {
        const auto gradient = problem.gradient(0, /*create_graph=*/true);
        std::vector<torch::Tensor> outputs;
        std::vector<torch::Tensor> cotangents;
        for (const auto& g : gradient) {
          if (!g.defined() || !g.requires_grad()) continue;
          outputs.push_back(g);
          cotangents.push_back(torch::ones_like(g));
        }
        if (!outputs.empty()) torch::autograd::grad(outputs, problem.parameters(), cotangents, false, false, true);
      },
      [](const std::string& reason) {
        return text("the network has no second derivative in LibTorch: ", reason,
                    "; replace the operation by others that can be differentiated twice");
      });
}

}  // namespace

struct DifferentiableKernels::State {
  Switches switches;
  UnoptimisedTorchScript torchscript;
  PlainOperators operators;
  c10::DeviceGuard device;
};

DifferentiableKernels::DifferentiableKernels(c10::Device device, int threads)
    : state_(new State{{}, {}, {}, c10::DeviceGuard(device)}) {
  auto& context = at::globalContext();
  auto& switches = state_->switches;
  switches.change(at::get_num_threads(), threads, at::set_num_threads);
  switches.change(context.userEnabledMkldnn(), true, [&](bool on) { context.setUserEnabledMkldnn(on); });
  switches.change(context.userEnabledCuDNN(), false, [&](bool on) { context.setUserEnabledCuDNN(on); });
  set_attention(switches);
  if (!device.is_cpu()) set_gpu(switches);
}

DifferentiableKernels::~DifferentiableKernels() = default;

// LibTorch does so only when a thread first divides work, which small networks never do.
void use_threads_of_process() {
  at::init_num_threads();
}

std::vector<std::string> probe_second_derivatives(const Problem& problem) {
  const CalledOperators called;
  const WidenedCasts casts;
  std::vector<std::string> cures;
  try {
    derive_twice(problem);
  } catch (const InputError&) {
    if (!at::globalContext().userEnabledMkldnn()) throw;
    at::globalContext().setUserEnabledMkldnn(false);
    derive_twice(problem);
    cures.emplace_back("oneDNN is off: one of its kernels for this network has no second derivative");
  }
  if (const auto reason = called.refusal()) throw InputError(*reason);
  for (auto& cure : called.cures()) cures.push_back(std::move(cure));
  if (auto cure = casts.cure()) cures.push_back(std::move(*cure));
  if (has_drawn_random_numbers(problem.device()))
    cures.emplace_back("random layers draw the same numbers in every forward (--seed)");
  return cures;
}

void use_fast_convolutions(const Problem& problem) {
  // Measured on one core, backward of 8 x 1 x 12 x 12 to 32 channels: 0.09 ms, with oneDNN 0.24 to 0.36 ms. From three
  // channels on oneDNN is the faster by two to four times.
  if (problem.convolves_single_channels()) at::globalContext().setUserEnabledMkldnn(false);
}

}  // namespace hessian_mpi::network
