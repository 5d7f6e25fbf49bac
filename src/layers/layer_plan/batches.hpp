#pragma once
/// What the forwards of all batches have in common. Internal to the plans of layers.

#include <cstdint>
#include <vector>

#include "hessian_mpi/layers/layer_capture.hpp"
#include "hessian_mpi/network/problem.hpp"

namespace hessian_mpi::layers {

struct BatchesInCommon {
  /// Whether all run the same layers, each with as many positions, and as many outputs, for a sample.
  bool alike = true;
  /// Of each call whether samples have a part in it: what is elementwise may be so in a weight, say.
  std::vector<bool> has_samples;
  std::vector<std::int64_t> outputs;  ///< numbers of the output map of each batch
};

/// first: of batch 0. Runs all other batches forward.
BatchesInCommon in_common(const network::Problem& problem, const CapturedForward& first);

}  // namespace hessian_mpi::layers
