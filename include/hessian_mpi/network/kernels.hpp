#pragma once
/// With which of its kernels LibTorch computes: those that can be differentiated twice, and rightly. These are switches
/// of the whole process.

#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::network {

/// Chooses such kernels for as long as it lives, and then what was chosen before: attention by plain matrix products,
/// no cuDNN, the operators of plain_operators.hpp, TorchScript unoptimised; on a GPU those that give the same numbers
/// every time, where LibTorch has any, and no rounded ones (TF32). One at a time, made before a model is loaded.
class DifferentiableKernels {
 public:
  /// The device becomes the calling thread's own. threads: of operators on the CPU.
  DifferentiableKernels(c10::Device device, int threads);
  ~DifferentiableKernels();
  DifferentiableKernels(const DifferentiableKernels&) = delete;
  DifferentiableKernels& operator=(const DifferentiableKernels&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Gives the calling thread the number of threads that DifferentiableKernels was given: MKL has one for each thread
/// that calls it, and takes all cores where none was set.
void use_threads_of_process();

/// Derives every operation of a batch twice, once; where one has no second derivative, tries again without oneDNN,
/// whose fused kernels have fewer, and leaves it off for
/// the life of the DifferentiableKernels if that cures it. Returns what is done in another
/// way than PyTorch does it, so that second derivatives are right: a sentence each, for the user. Throws InputError
/// naming the operation.
std::vector<std::string> probe_second_derivatives(const Problem& problem);

/// Chooses the faster convolutions for the problem, for the life of the DifferentiableKernels: without oneDNN where all
/// of them see single channels. By what the model is, not by timing: the last digits must be the same on every rank and
/// in every run.
void use_fast_convolutions(const Problem& problem);

}  // namespace hessian_mpi::network
