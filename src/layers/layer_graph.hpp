#pragma once
/// One batch, run forward and back once, to be differentiated again with respect to what flows between its layers.
/// Internal to the factored engine.

#include <torch/csrc/autograd/function.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hessian_mpi/layers/layer_capture.hpp"
#include "hessian_mpi/network/problem.hpp"
#include "layer_tail.hpp"

namespace hessian_mpi::layers {

/// Of a matrix J^T A J everything is as if the network were linear where it is: second derivatives are those by way of
/// its outputs y, J_z^T A J_z for intermediates z, and inputs do not depend on outputs. The deltas are then those of
/// some cotangent of y.
class LayerGraph {
 public:
  /// The problem must outlive the graph. copies: of the batch, as Problem::loss has them. tail: of the batch; passes go
  /// round it then, and of layers in it nothing is known here.
  LayerGraph(const network::Problem& problem, std::int64_t batch, std::int64_t copies = 1, const Tail* tail = nullptr);

  const CapturedForward& forward() const { return forward_; }
  const LayerCall& call(std::size_t c) const { return forward_.calls[c]; }

  /// dL/dz of a call, in z's shape: zeros where the loss does not depend on it.
  torch::Tensor delta(std::size_t c) const;
  /// The gradient of the loss by a parameter; may be undefined.
  const torch::Tensor& gradient(std::size_t parameter) const { return gradient_[parameter]; }

  /// Whether second_derivatives() can find derivatives of a call's input, where the loss depends on that and it depends
  /// on anything.
  bool knows_input(std::size_t c) const {
    return !input_depends(c) || !input_gradient_[c].defined() || has_input_gradient(c);
  }

  /// Whether a call's input depends on anything that is differentiated by: not data, nor an embedding's, which is
  /// large.
  bool input_depends(std::size_t c) const;

  /// What a pass starts with at a call: cotangents of dL/dz, in z's shape, and of a, in a's, if any.
  struct Start {
    std::size_t call = 0;
    torch::Tensor of_delta;
    torch::Tensor of_input;
  };
  /// Of s, the sum of cotangents times dL/dz_c and a_c over calls c, in one pass; undefined where there is no
  /// dependence.
  struct SecondDerivatives {
    std::vector<torch::Tensor> by_output;  ///< ds / dz_m for the calls m, z_m taken as an intermediate
    /// ds / d(dL/da_m), which is the derivative of a_m along the cotangent as a direction of z_c: what is transposed
    /// twice is a derivative forward (Townsend, A new trick for calculating Jacobian vector products, 2017).
    std::vector<torch::Tensor> of_input;
    /// With a tail: the direction of its x, [copies, places, features], zero where there is no dependence. Valid until
    /// the next pass.
    torch::Tensor along_x = {};
  };
  SecondDerivatives second_derivatives(const std::vector<Start>& starts, const std::vector<std::size_t>& outputs,
                                       const std::vector<std::size_t>& inputs) const;
  /// d(cotangent . a_c) / dz_m for the calls m; undefined where there is no dependence. cotangent: a_c's shape.
  std::vector<torch::Tensor> input_derivatives(std::size_t c, const torch::Tensor& cotangent,
                                               const std::vector<std::size_t>& targets) const;
  /// The sum of both, for several calls c at once, each with cotangents of its own.
  std::vector<torch::Tensor> derivatives_of(const std::vector<std::size_t>& calls,
                                            const std::vector<torch::Tensor>& of_delta,
                                            const std::vector<torch::Tensor>& of_input,
                                            const std::vector<std::size_t>& targets) const;

 private:
  bool has_input_gradient(std::size_t c) const;
  bool delta_depends(std::size_t c) const;
  struct Roots {
    torch::autograd::edge_list edges;
    std::vector<torch::Tensor> cotangents;
  };
  Roots roots_of(const std::vector<Start>& starts) const;
  torch::Tensor times_a(const torch::autograd::edge_list& deltas, const std::vector<torch::Tensor>& cotangents) const;
  std::vector<torch::Tensor> derivatives(const Roots& roots, const std::vector<std::size_t>& targets) const;

  void run_back(const network::Problem& problem, const torch::autograd::edge_list& roots,
                const std::vector<torch::Tensor>& cotangents);

  CapturedForward forward_;
  torch::Tensor cotangent_;                    // of y
  torch::Tensor direction_;                    // of the tail's x, if any
  std::vector<torch::Tensor> delta_;           // with their graph
  std::vector<torch::Tensor> input_gradient_;  // dL/da of calls, with its graph; undefined where a has no place there
  std::vector<torch::Tensor> gradient_;
};

}  // namespace hessian_mpi::layers
