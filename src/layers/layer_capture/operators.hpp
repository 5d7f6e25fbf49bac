#pragma once
/// Which operators are layers, by name and arguments. Internal to the capture of layers.

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <optional>
#include <string_view>
#include <vector>

#include "hessian_mpi/layers/layer_capture.hpp"

namespace hessian_mpi::layers {

/// The call of an operator as a layer of some of the parameters, still without its output. Throws c10::Error for
/// arguments of another kind than such an operator's.
std::optional<LayerCall> call_of(std::string_view name, c10::ArrayRef<c10::IValue> arguments,
                                 const std::vector<torch::Tensor>& parameters);

/// The sum of an embedding's result, which is the same for all samples, as that of positions is, with what they have:
/// the same layer once more, each sample with a place of its own. calls: those before.
std::optional<LayerCall> spread_embedding(std::string_view name, c10::ArrayRef<c10::IValue> arguments,
                                          const std::vector<LayerCall>& calls);

}  // namespace hessian_mpi::layers
