#include "layer_tensors.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

Tensor tensor_from_rows(const Tensor& rows, const Tensor& like, const LayerCall& call) {
  if (!call.convolution) return rows.reshape(like.sizes()).contiguous();
  return rows.reshape({like.size(0), -1, like.size(1)}).transpose(1, 2).reshape(like.sizes()).contiguous();
}

// [samples, positions, features] from [rows, features].
Tensor by_sample(const Tensor& rows, const LayerOrder& order) {
  if (order.samples_last) return rows.reshape({-1, order.samples, rows.size(1)}).transpose(0, 1);
  return rows.reshape({order.samples, -1, rows.size(1)});
}

Tensor rows_from_samples(const Tensor& by_sample, const LayerOrder& order) {
  const auto features = by_sample.size(2);
  return (order.samples_last ? by_sample.transpose(0, 1) : by_sample).reshape({-1, features});
}

// [units, positions, features] from [rows, features], and back. The rows of a batch need not belong to samples.
Tensor by_unit(const Tensor& rows, const LayerOrder& order) {
  if (order.unit == Unit::batch) return rows.unsqueeze(0);
  const Tensor samples = by_sample(rows, order);
  return order.unit == Unit::sample ? samples : samples.reshape({-1, 1, rows.size(1)});
}

Tensor rows_from_units(const Tensor& ordered, const LayerOrder& order) {
  if (order.unit == Unit::batch) return ordered.squeeze(0);
  return rows_from_samples(ordered.reshape({order.samples, -1, ordered.size(2)}), order);
}

// Patches [samples, positions, groups, columns] of a convolution's input [samples, channels, ...].
Tensor patches(const Tensor& input, const LayerCall& call) {
  const auto& geometry = *call.convolution;
  const auto dimensions = geometry.stride.size();
  std::vector<std::int64_t> padding;  // the last dimension first
  for (auto d = dimensions; d-- > 0;) {
    padding.push_back(geometry.padding_before[d]);
    padding.push_back(geometry.padding_after[d]);
  }
  const Tensor padded = at::constant_pad_nd(input, padding, 0).contiguous();
  std::vector<std::int64_t> sizes{padded.size(0), padded.size(1)};
  std::vector<std::int64_t> strides{padded.stride(0), padded.stride(1)};
  std::int64_t positions = 1;
  for (std::size_t d = 0; d < dimensions; ++d) {
    const auto extent = static_cast<std::int64_t>(d) + 2;
    sizes.push_back(call.output.size(extent));
    strides.push_back(padded.stride(extent) * geometry.stride[d]);
    positions *= call.output.size(extent);
  }
  std::int64_t places = 1;
  for (std::size_t d = 0; d < dimensions; ++d) {
    sizes.push_back(call.weight_sizes[d + 2]);
    strides.push_back(padded.stride(static_cast<std::int64_t>(d) + 2) * geometry.dilation[d]);
    places *= call.weight_sizes[d + 2];
  }
  const Tensor seen = padded.as_strided(sizes, strides).reshape({input.size(0), input.size(1), positions, places});
  const auto channels = input.size(1) / geometry.groups;
  return seen.reshape({input.size(0), geometry.groups, channels, positions, places})
      .permute({0, 3, 1, 2, 4})
      .reshape({input.size(0), positions, geometry.groups, channels * places});
}

// The inputs of one sample, numbered from 1: 0 is left for padding.
Tensor numbered_elements(const LayerCall& call) {
  auto sizes = call.input.sizes().vec();
  sizes[0] = 1;
  const auto count = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
  return at::arange(1, count + 1, at::kLong).reshape(sizes);
}

}  // namespace

std::int64_t outputs_of(const LayerCall& call) {
  return call.weight_sizes[0];
}
std::int64_t weight_columns(const LayerCall& call) {
  return std::accumulate(call.weight_sizes.begin() + 1, call.weight_sizes.end(), std::int64_t{1}, std::multiplies<>());
}
std::int64_t groups_of(const LayerCall& call) {
  return call.convolution ? call.convolution->groups : 1;
}

std::int64_t units_of(const LayerCall& call, const LayerOrder& order) {
  return order.unit == Unit::batch    ? 1
         : order.unit == Unit::sample ? order.samples
                                      : call.output.numel() / outputs_of(call);
}
std::int64_t positions_of(const LayerCall& call, const LayerOrder& order) {
  return call.output.numel() / outputs_of(call) / units_of(call, order);
}

bool is_pointwise(const LayerCall& call) {
  if (!call.convolution) return true;
  const auto all = [](const std::vector<std::int64_t>& numbers, std::int64_t value) {
    return std::all_of(numbers.begin(), numbers.end(), [=](auto x) { return x == value; });
  };
  return all({call.weight_sizes.begin() + 2, call.weight_sizes.end()}, 1) && all(call.convolution->stride, 1) &&
         all(call.convolution->padding_before, 0) && all(call.convolution->padding_after, 0);
}

Tensor output_by_unit(const Tensor& z, const LayerCall& call, const LayerOrder& order) {
  return by_unit(rows_of(z, call), order);
}

Tensor output_from_units(const Tensor& ordered, const LayerCall& call, const LayerOrder& order) {
  return tensor_from_rows(rows_from_units(ordered, order), call.output, call);
}

Tensor input_by_unit(const Tensor& a, const LayerCall& call, const LayerOrder& order) {
  // A convolution's patches are found by place, not by channel.
  if (call.convolution && order.unit != Unit::position) {
    return order.unit == Unit::sample ? a.reshape({order.samples, -1}) : a.reshape({1, -1});
  }
  const Tensor units = by_unit(rows_of(a, call), order);
  return units.reshape({units.size(0), -1});
}

Tensor input_from_units(const Tensor& ordered, const LayerCall& call, const LayerOrder& order) {
  if (call.convolution && order.unit != Unit::position) return ordered.reshape(call.input.sizes()).contiguous();
  const auto features = call.convolution ? call.input.size(1) : call.input.size(-1);
  const Tensor places = ordered.reshape({ordered.size(0), -1, features});
  return tensor_from_rows(rows_from_units(places, order), call.input, call);
}

Tensor input_patches(const LayerCall& call, std::int64_t group, const LayerOrder& order) {
  if (!call.convolution) return by_unit(rows_of(call.input, call), order);
  const Tensor seen = patches(call.input, call).select(2, group);
  if (order.unit == Unit::sample) return seen;
  return seen.reshape({order.unit == Unit::batch ? 1 : -1, order.unit == Unit::batch ? -1 : 1, seen.size(2)});
}

Tensor patch_elements(const LayerCall& call, std::int64_t group, const LayerOrder& order) {
  const auto columns = weight_columns(call);
  if (order.unit == Unit::position) return (at::arange(columns, at::kLong) + group * columns).reshape({1, columns});
  if (!call.convolution) {
    const auto positions = positions_of(call, order);
    return at::arange(positions * columns, at::kLong).reshape({positions, columns});
  }
  const Tensor numbers = numbered_elements(call);
  const Tensor of_sample = patches(numbers, call).select(2, group);  // [1, positions, columns]
  if (order.unit == Unit::sample) return of_sample.select(0, 0) - 1;
  const Tensor first = at::arange(order.samples, at::kLong).reshape({-1, 1, 1}) * numbers.numel();
  return at::where(of_sample == 0, 0, of_sample + first).reshape({-1, columns}) - 1;
}

Tensor sample_of_rows(std::int64_t rows, const LayerOrder& order) {
  const Tensor row = at::arange(rows, at::kLong);
  return order.samples_last ? row.remainder(order.samples) : row.floor_divide(rows / order.samples);
}

Tensor position_of_rows(std::int64_t rows, const LayerOrder& order) {
  const Tensor row = at::arange(rows, at::kLong);
  return order.samples_last ? row.floor_divide(order.samples) : row.remainder(rows / order.samples);
}

Tensor rows_of(const Tensor& z_or_a, const LayerCall& call) {
  if (!call.convolution) return z_or_a.reshape({-1, z_or_a.size(-1)});
  return z_or_a.flatten(2).transpose(1, 2).reshape({-1, z_or_a.size(1)});  // features come after the samples
}

Tensor output_from_rows(const Tensor& rows, const LayerCall& call) {
  return tensor_from_rows(rows, call.output, call);
}
Tensor input_from_rows(const Tensor& rows, const LayerCall& call) {
  return tensor_from_rows(rows, call.input, call);
}

}  // namespace hessian_mpi::layers
