#pragma once
/// The tensors of a layer, brought from the shapes that networks give them into one order: unit, position, feature. A
/// unit is what second derivatives do not cross. Internal to the factored engine.

#include <torch/types.h>

#include <cstdint>

#include "hessian_mpi/layers/layer_capture.hpp"
#include "hessian_mpi/layers/layer_plan.hpp"

namespace hessian_mpi::layers {

/// How a batch of so many samples is cut into units, and how a layer's tensors lie.
struct LayerOrder {
  Unit unit = Unit::sample;
  std::int64_t samples = 1;
  bool samples_last = false;  ///< rows of a linear layer: position by position, in each all samples
};

/// Units, and positions of a layer in each of them.
std::int64_t units_of(const LayerCall& call, const LayerOrder& order);
std::int64_t positions_of(const LayerCall& call, const LayerOrder& order);
/// Features of z, and of a as the weight sees it: the inputs of a group of a convolution at all places of its kernel.
std::int64_t outputs_of(const LayerCall& call);
std::int64_t weight_columns(const LayerCall& call);
/// Weights of a group see the same inputs; a transposed convolution has a group for each of its channels. The parameter
/// has group after group.
std::int64_t groups_of(const LayerCall& call);
std::int64_t outputs_of_group(const LayerCall& call);
std::int64_t first_output_of(const LayerCall& call, std::int64_t group);
/// True for what sees one position at a time: linear and elementwise layers, and convolutions whose kernel is a single
/// point.
bool is_pointwise(const LayerCall& call);

/// z, or anything of its shape, as [units, positions, outputs]; and back, contiguous.
torch::Tensor output_by_unit(const torch::Tensor& z, const LayerCall& call, const LayerOrder& order);
torch::Tensor output_from_units(const torch::Tensor& ordered, const LayerCall& call, const LayerOrder& order);

/// a, or anything of its shape, as [units, elements]; and back, contiguous.
torch::Tensor input_by_unit(const torch::Tensor& a, const LayerCall& call, const LayerOrder& order);
torch::Tensor input_from_units(const torch::Tensor& ordered, const LayerCall& call, const LayerOrder& order);

/// a as the weights of a group see it: [units, positions, columns].
torch::Tensor input_patches(const LayerCall& call, std::int64_t group, const LayerOrder& order);
/// Which element of a unit's input (as input_by_unit has it) each of these is: int64 [positions, columns], -1 for
/// padding. The same for all units.
torch::Tensor patch_elements(const LayerCall& call, std::int64_t group, const LayerOrder& order);

/// The gradient by a layer's weight or bias that each unit has a part in, from dL/dz: [units, elements].
torch::Tensor gradient_by_unit(const torch::Tensor& delta, const LayerCall& call, bool bias, const LayerOrder& order);

/// The sample and the position in it that each row of z (or a) belongs to, counted as they lie in memory, features left
/// out: int64 [rows]. rows: a multiple of the number of samples.
torch::Tensor sample_of_rows(std::int64_t rows, const LayerOrder& order);
torch::Tensor position_of_rows(std::int64_t rows, const LayerOrder& order);
/// z or a as [rows, features], rows as they lie in memory; and back.
torch::Tensor rows_of(const torch::Tensor& z_or_a, const LayerCall& call);
torch::Tensor output_from_rows(const torch::Tensor& rows, const LayerCall& call);
torch::Tensor input_from_rows(const torch::Tensor& rows, const LayerCall& call);

}  // namespace hessian_mpi::layers
