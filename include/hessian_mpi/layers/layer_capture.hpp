#pragma once
/// Which linear layers and convolutions a network runs, seen in one forward of the loaded model, whatever its format:
/// every call with its input, its output's place in the graph of derivatives, and the parameters it reads.

#include <torch/csrc/autograd/edge.h>
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/engines/output_map.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::layers {

/// How a convolution moves over its input; a number for each of its dimensions.
struct Convolution {
  std::vector<std::int64_t> stride;
  std::vector<std::int64_t> padding_before;
  std::vector<std::int64_t> padding_after;
  std::vector<std::int64_t> dilation;
  std::int64_t groups = 1;
};

/// z = a W^T + b: one call of a layer that is linear in its weight and in its input. a: [..., inputs], z: [...,
/// outputs]; for a convolution a: [samples, channels, ...], z: [samples, outputs, ...]. An embedding is such a layer: a
/// has a one where the index is, and zeros elsewhere.
struct LayerCall {
  std::optional<std::size_t> weight;  ///< which of the problem's parameters; none where it is held fixed
  std::optional<std::size_t> bias;
  std::optional<Convolution> convolution;
  std::vector<std::int64_t> weight_sizes;  ///< outputs first
  bool by_input = false;                   ///< the parameter is W^T, [inputs, outputs]
  bool embedding = false;                  ///< no product in the forward
  torch::Tensor input;                     ///< a's value
  torch::Tensor output;                    ///< z's value
  torch::autograd::Edge input_edge;        ///< a in the graph; no function where it does not depend on parameters
  torch::autograd::Edge output_edge;       ///< z in the graph
};

/// A batch run forward.
struct CapturedForward {
  engines::OutputMap outputs;    ///< of a matrix J^T A J; of a Hessian y is the loss. Keeps the graph
  std::vector<LayerCall> calls;  ///< in the order of execution
  /// For each of the problem's parameters why none of the calls has it; empty where one has.
  std::vector<std::string> reasons;
};

/// Not collective. For the problem's matrix. A call has a parameter if that enters the loss there and nowhere else.
/// copies: as Problem::loss has them. Throws what Problem::loss and output_map() throw.
CapturedForward capture_layers(const network::Problem& problem, std::int64_t batch, std::int64_t copies = 1);

}  // namespace hessian_mpi::layers
