#pragma once
/// Which linear layers, convolutions, embeddings and elementwise layers a network runs, seen in one forward of the
/// loaded model, whatever its format: every call with its input, its output's place in the graph of derivatives, and
/// the parameters it reads.

#include <torch/csrc/autograd/edge.h>
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/engines/output_map.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::layers {

/// How a convolution moves over its input; a number for each of its dimensions. One that is transposed moves over its
/// output: its paddings are left out of that.
struct Convolution {
  bool transposed = false;  ///< the parameter is [inputs, outputs of a group, ...]
  std::vector<std::int64_t> stride;
  std::vector<std::int64_t> padding_before;
  std::vector<std::int64_t> padding_after;
  std::vector<std::int64_t> dilation;
  std::int64_t groups = 1;
};

/// What norms do before their weight, to x seen in some sizes: a = (x - mean) * inverse_deviation.
struct Normalization {
  std::vector<std::int64_t> sizes;  ///< that x is seen in
  std::vector<std::int64_t> over;   ///< dimensions of these that mean and deviation are of; none: both are held fixed
  torch::Tensor mean;
  torch::Tensor inverse_deviation;
};

/// z = a W^T + b: one call of a layer that is linear in its weight and in its input. a: [..., inputs], z: [...,
/// outputs]; for a convolution a: [samples, channels, ...], z: [samples, outputs, ...]. An embedding is such a layer: a
/// has a one where the index is, and zeros elsewhere. An elementwise layer, z = a * w + b, has a diagonal W, and a and
/// z of one shape, in some dimensions of which w and b are: norms, scales, and, without w, what adds a parameter.
struct LayerCall {
  std::optional<std::size_t> weight;  ///< which of the problem's parameters; none where it is held fixed
  std::optional<std::size_t> bias;
  std::optional<Convolution> convolution;
  std::vector<std::int64_t> weight_sizes;      ///< of W, outputs first; inputs of a group
  bool by_input = false;                       ///< the parameter is W^T, [inputs, outputs]
  bool embedding = false;                      ///< no product in the forward
  bool elementwise = false;                    ///< the parameter is the diagonal of W
  std::vector<std::int64_t> feature_dims;      ///< of an elementwise layer's z: those of w and b
  std::optional<Normalization> normalization;  ///< of the tensor that input_edge is of, to a
  std::optional<std::size_t> instead_of;       ///< the call whose z is a part of this one's, the same for all samples
  torch::Tensor input;                         ///< a's value
  torch::Tensor output;                        ///< z's value
  torch::autograd::Edge
      input_edge;  ///< a in the graph; no function where it does not depend on parameters, or nobody asks
  torch::autograd::Edge output_edge;  ///< z in the graph
};

/// A batch run forward.
struct CapturedForward {
  engines::OutputMap outputs;    ///< of a matrix J^T A J; of a Hessian y is the loss. Keeps the graph
  std::vector<LayerCall> calls;  ///< in the order of execution
  /// Calls that share parameters, directly or by way of others, in the order of execution; each set has at least two.
  std::vector<std::vector<std::size_t>> tied;
  /// For each of the problem's parameters why none of the calls has it; empty where one has.
  std::vector<std::string> reasons;
};

/// Not collective. For the problem's matrix. Calls have a parameter if that enters the loss there and nowhere else.
/// copies: as Problem::loss has them. Throws what Problem::loss and output_map() throw.
CapturedForward capture_layers(const network::Problem& problem, std::int64_t batch, std::int64_t copies = 1);

/// The set of tied calls that a call is in; none if it shares nothing.
std::optional<std::size_t> tied_set_of(const CapturedForward& forward, std::size_t call);
/// Of each parameter the first call that has it; the number of calls where none has.
std::vector<std::size_t> first_calls(const CapturedForward& forward);

}  // namespace hessian_mpi::layers
