#include "layer_tensors.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace hessian_mpi::layers {
namespace {

using torch::Tensor;

Tensor elementwise_from_rows(const Tensor& rows, const LayerCall& call);

Tensor tensor_from_rows(const Tensor& rows, const Tensor& like, const LayerCall& call) {
  if (call.elementwise) return elementwise_from_rows(rows, call);
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

// Along one dimension, which place of the input a place of the kernel sees at each position, -1 for padding:
// [positions, kernel].
Tensor places_along(const LayerCall& call, std::size_t d) {
  const auto& geometry = *call.convolution;
  const auto inputs = call.input.size(static_cast<std::int64_t>(d) + 2);
  const Tensor position = at::arange(call.output.size(static_cast<std::int64_t>(d) + 2), at::kLong).unsqueeze(1);
  const Tensor kernel = at::arange(call.weight_sizes[d + 2], at::kLong).unsqueeze(0) * geometry.dilation[d];
  if (!geometry.transposed) {
    const Tensor place = position * geometry.stride[d] + kernel - geometry.padding_before[d];
    return at::where(place.ge(0).logical_and(place.lt(inputs)), place, -1);
  }
  const Tensor strides = position + geometry.padding_before[d] - kernel;
  const Tensor place = strides.floor_divide(geometry.stride[d]);
  const Tensor seen = strides.remainder(geometry.stride[d]).eq(0).logical_and(place.ge(0));
  return at::where(seen.logical_and(place.lt(inputs)), place, -1);
}

// The same of all dimensions at once, in the plane of a channel: [positions, places of the kernel].
Tensor places_seen(const LayerCall& call) {
  Tensor all = at::zeros({1, 1}, at::kLong);
  for (std::size_t d = 0; d < call.convolution->stride.size(); ++d) {
    const Tensor along = places_along(call, d);
    const Tensor before = all.unsqueeze(1).unsqueeze(3);
    const Tensor own = along.unsqueeze(0).unsqueeze(2);
    const Tensor both = before * call.input.size(static_cast<std::int64_t>(d) + 2) + own;
    all = at::where(before.lt(0).logical_or(own.lt(0)), -1, both)
              .reshape({all.size(0) * along.size(0), all.size(1) * along.size(1)});
  }
  return all;
}

// The channels that the weights of a group see.
std::int64_t channels_of_group(const LayerCall& call) {
  return call.input.size(1) / groups_of(call);
}

// Patches [samples, positions, columns] of a convolution's input [samples, channels, ...].
Tensor patches(const LayerCall& call, std::int64_t group) {
  const auto channels = channels_of_group(call);
  const Tensor places = places_seen(call);
  const Tensor planes = at::constant_pad_nd(call.input.flatten(2).narrow(1, group * channels, channels), {0, 1}, 0);
  const Tensor seen = at::where(places.lt(0), planes.size(2) - 1, places).reshape(-1).to(planes.device());
  return planes.index_select(2, seen)
      .reshape({planes.size(0), channels, places.size(0), places.size(1)})
      .transpose(1, 2)
      .reshape({planes.size(0), places.size(0), channels * places.size(1)});
}

// The dimensions of an elementwise layer's tensors, those of features last.
std::vector<std::int64_t> features_last(const LayerCall& call) {
  const auto& features = call.feature_dims;
  std::vector<std::int64_t> dims;
  for (std::int64_t d = 0; d < call.output.dim(); ++d) {
    if (std::find(features.begin(), features.end(), d) == features.end()) dims.push_back(d);
  }
  dims.insert(dims.end(), features.begin(), features.end());
  return dims;
}

Tensor elementwise_from_rows(const Tensor& rows, const LayerCall& call) {
  const auto dims = features_last(call);
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> places(dims.size());
  for (std::size_t k = 0; k < dims.size(); ++k) {
    sizes.push_back(call.output.size(dims[k]));
    places[static_cast<std::size_t>(dims[k])] = static_cast<std::int64_t>(k);
  }
  return rows.reshape(sizes).permute(places).contiguous();
}

}  // namespace

std::int64_t outputs_of(const LayerCall& call) {
  return call.weight_sizes[0];
}
std::int64_t weight_columns(const LayerCall& call) {
  return std::accumulate(call.weight_sizes.begin() + 1, call.weight_sizes.end(), std::int64_t{1}, std::multiplies<>());
}
std::int64_t groups_of(const LayerCall& call) {
  if (!call.convolution) return 1;
  return call.convolution->transposed ? call.input.size(1) : call.convolution->groups;
}
std::int64_t outputs_of_group(const LayerCall& call) {
  return call.convolution ? outputs_of(call) / call.convolution->groups : outputs_of(call);
}
std::int64_t first_output_of(const LayerCall& call, std::int64_t group) {
  if (!call.convolution) return 0;
  return group * call.convolution->groups / groups_of(call) * outputs_of_group(call);
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
  if (call.elementwise) return true;
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
  const Tensor seen = patches(call, group);
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
  const Tensor places = places_seen(call).unsqueeze(1);  // [positions, 1, places of the kernel]
  const auto channels = channels_of_group(call);
  const auto plane = call.input[0][0].numel();
  const Tensor first = (at::arange(channels, at::kLong) + group * channels).unsqueeze(1) * plane;
  const Tensor of_sample = at::where(places.lt(0), -1, places + first).reshape({-1, columns});
  if (order.unit == Unit::sample) return of_sample;
  const Tensor before = at::arange(order.samples, at::kLong).reshape({-1, 1, 1}) * call.input[0].numel();
  return at::where(of_sample.lt(0), -1, of_sample + before).reshape({-1, columns});
}

Tensor gradient_by_unit(const Tensor& delta, const LayerCall& call, bool bias, const LayerOrder& order) {
  const Tensor deltas = output_by_unit(delta, call, order);
  if (bias) return deltas.sum(1);
  if (call.elementwise) return (deltas * input_patches(call, 0, order)).sum(1);
  std::vector<Tensor> groups;
  for (std::int64_t g = 0; g < groups_of(call); ++g) {
    const Tensor of_group = deltas.narrow(2, first_output_of(call, g), outputs_of_group(call));
    groups.push_back(of_group.transpose(1, 2).bmm(input_patches(call, g, order)));
  }
  const Tensor all = groups.size() == 1 ? groups.front() : at::cat(groups, 1);
  return (call.by_input ? all.transpose(1, 2) : all).reshape({all.size(0), -1});
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
  if (call.elementwise) return z_or_a.permute(features_last(call)).reshape({-1, outputs_of(call)});
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
