#include "layer_tail.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "graph_edges.hpp"
#include "hessian_mpi/engines/tile.hpp"
#include "layer_capture/normalization.hpp"
#include "layer_plan/cotangents.hpp"
#include "layer_tensors.hpp"

namespace hessian_mpi::layers {

torch::Tensor in_memory(const torch::Tensor& numbers, torch::Dtype dtype) {
  constexpr std::int64_t behind = 16;
  const torch::Tensor memory = at::zeros({numbers.numel() + behind}, at::TensorOptions(dtype));
  torch::Tensor copy = memory.narrow(0, 0, numbers.numel()).view(numbers.sizes());
  copy.copy_(numbers);
  return copy;
}

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Edge;
using torch::autograd::variable_list;

// Beyond, passes through the end of the network take less than reading the matrices.
constexpr std::uint64_t most_bytes = 128 << 20;

// A batch run forward, and back to x, to be differentiated again by what comes after x.
class End {
 public:
  End(const CapturedForward& forward, const Edge& x, const std::vector<bool>& before) : forward_(forward), x_(x) {
    torch::autograd::edge_list edges{x};
    for (std::size_t c = 0; c < before.size(); ++c) {
      if (before[c]) continue;
      calls_.push_back(c);
      const auto& call = forward.calls[c];
      inputs_.emplace_back();
      if (has_input(call)) edges.push_back(call.input_edge);
    }
    const auto& y = forward.outputs.y;
    const auto found =
        backward({torch::autograd::impl::gradient_edge(y)}, {at::ones_like(y)}, edges, /*create_graph=*/true);
    delta_ = found.front();
    std::size_t next = 1;
    for (std::size_t k = 0; k < calls_.size(); ++k) {
      if (has_input(forward.calls[calls_[k]])) inputs_[k] = found[next++];
    }
  }

  const std::vector<std::size_t>& calls() const { return calls_; }
  const Tensor& delta() const { return delta_; }
  /// Whether there is anything to be taken, and in rows: x and layers that are alike in their places.
  bool has_rows() const {
    if (!delta_.defined() || !delta_.requires_grad() || delta_.is_leaf() || delta_.dim() < 2) return false;
    if (!delta_.is_floating_point() || delta_.numel() == 0) return false;
    return std::all_of(calls_.begin(), calls_.end(), [&](std::size_t c) {
      const auto& call = forward_.calls[c];
      return !call.convolution && call.output.numel() / outputs_of(call) == places();
    });
  }
  std::int64_t features() const { return delta_.size(-1); }
  std::int64_t places() const { return delta_.numel() / features(); }

  /// Of cotangent . dL/dx, each [places, features]: by x, and by the calls' outputs and dL/da; undefined where there is
  /// no dependence.
  struct Derivatives {
    Tensor by_x;
    std::vector<Tensor> by_output;
    std::vector<Tensor> of_input;
  };
  Derivatives derivatives(const Tensor& cotangent) const {
    torch::autograd::edge_list targets{x_};
    for (const auto c : calls_) targets.push_back(forward_.calls[c].output_edge);
    for (const auto& input : inputs_) {
      if (depends(input)) targets.push_back(torch::autograd::impl::gradient_edge(input));
    }
    const auto found = backward({torch::autograd::impl::gradient_edge(delta_)}, {cotangent.reshape(delta_.sizes())},
                                targets, /*create_graph=*/false);
    Derivatives derivatives{found.front().defined() ? found.front().reshape({places(), features()}) : Tensor(), {}, {}};
    auto of_input = found.begin() + 1 + static_cast<std::ptrdiff_t>(calls_.size());
    for (std::size_t k = 0; k < calls_.size(); ++k) {
      const auto& call = forward_.calls[calls_[k]];
      const auto& by_output = found[k + 1];
      derivatives.by_output.push_back(by_output.defined() ? rows_of(by_output, call) : Tensor());
      derivatives.of_input.emplace_back();
      if (!depends(inputs_[k])) continue;
      const Tensor& direction = *of_input++;
      if (direction.defined()) derivatives.of_input.back() = rows_of(through_normalization(call, direction), call);
    }
    return derivatives;
  }
  std::int64_t outputs(std::size_t k) const { return outputs_of(forward_.calls[calls_[k]]); }
  /// Features of a call's input at a place; none where it depends on nothing or has no weight.
  std::int64_t elements(std::size_t k) const {
    const auto& call = forward_.calls[calls_[k]];
    return has_input(call) ? rows_of(call.input, call).size(1) : 0;
  }

 private:
  static bool has_input(const LayerCall& call) { return call.weight && call.input_edge.is_valid(); }
  static bool depends(const Tensor& gradient) {
    return gradient.defined() && gradient.requires_grad() && !gradient.is_leaf();
  }

  const CapturedForward& forward_;
  Edge x_;
  std::vector<std::size_t> calls_;
  Tensor delta_;
  std::vector<Tensor> inputs_;  // dL/da of these calls
};

bool keeps_places(const End& end) {
  bool keeps = true;
  Patternless patternless;
  const Tensor numbers = patternless.like(end.delta()).reshape({end.places(), end.features()});
  const Tensor places = at::arange(end.places(), at::kLong);
  for_separating_sets(end.places(), [&](const auto& contains) {
    if (!keeps) return;
    const Tensor own = contains(places).to(numbers.device());
    const auto found = end.derivatives(numbers * own.unsqueeze(1).to(numbers.scalar_type()));
    const auto stays = [&](const Tensor& rows) {
      return !rows.defined() || !((rows != 0).any(1) & ~own).any().template item<bool>();
    };
    keeps = stays(found.by_x) && std::all_of(found.by_output.begin(), found.by_output.end(), stays) &&
            std::all_of(found.of_input.begin(), found.of_input.end(), stays);
  });
  return keeps;
}

// Without numbers.
Tail shape_of(const End& end, const NarrowPlace& place) {
  Tail tail{place, end.delta().detach(), {}, {}, {}};
  std::int64_t numbers = 0;
  for (std::size_t k = 0; k < end.calls().size(); ++k) {
    const auto c = end.calls()[k];
    auto& columns = tail.layers.emplace_back(TailLayer{c, numbers, end.outputs(k), 0, end.elements(k)});
    columns.first_element = columns.first_output + columns.outputs;
    numbers = columns.first_element + columns.elements;
  }
  // One place's row of zeros for all of them.
  const auto zeros = [&](std::int64_t columns) {
    const Tensor row = at::zeros({1, 1, columns}, tail.delta.options());
    return (row.is_cpu() ? in_memory(row, row.scalar_type()) : row).expand({end.places(), end.features(), columns});
  };
  tail.by_x = zeros(end.features());
  tail.by_layers = zeros(numbers);
  return tail;
}

// directions [n, places, features] times matrices [places, features, features], by this project's products, which take
// a tenth of LibTorch's time where n is small.
template <class Number>
void multiply_places(const Tensor& directions, const Tensor& matrices, Tensor& out) {
  const Tensor left = directions.permute({1, 2, 0}).contiguous();
  const auto n = directions.size(0);
  const auto features = directions.size(2);
  for (std::int64_t place = 0; place < directions.size(1); ++place) {
    const engines::Product<Number> product{
        left.const_data_ptr<Number>() + place * features * n, n,
        engines::rows_as_factor(matrices.const_data_ptr<Number>() + place * matrices.stride(0), matrices.stride(1),
                                features, features)};
    engines::multiply(product, n, out.data_ptr<Number>() + place * features, out.stride(0));
  }
}

Tensor times_matrices(const Tensor& directions, const Tensor& matrices) {
  if (!directions.is_cpu()) return directions.transpose(0, 1).bmm(matrices).transpose(0, 1);
  Tensor out = at::empty_like(directions);
  if (directions.scalar_type() == at::kFloat) {
    multiply_places<float>(directions, matrices, out);
  } else {
    multiply_places<double>(directions, matrices, out);
  }
  return out;
}

struct TailDelta : torch::autograd::Function<TailDelta> {
  static Tensor forward(AutogradContext* context, const Tensor& /*x*/, const Tensor& delta, const Tensor& by_x,
                        const Tensor& direction) {
    context->saved_data["by_x"] = by_x;
    context->saved_data["direction"] = direction;
    return delta.clone();
  }
  static variable_list backward(AutogradContext* context, const variable_list& cotangents) {
    const Tensor& cotangent = cotangents.front();
    const Tensor direction = context->saved_data["direction"].toTensor();
    direction.copy_(cotangent.reshape(direction.sizes()));
    const Tensor of_x = times_matrices(direction, context->saved_data["by_x"].toTensor());
    return {of_x.reshape(cotangent.sizes()), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

const TailLayer* Tail::columns_of(std::size_t call) const {
  const auto found = std::find_if(layers.begin(), layers.end(), [=](const auto& layer) { return layer.call == call; });
  return found == layers.end() ? nullptr : &*found;
}

std::optional<Tail> longest_tail(const CapturedForward& forward, const std::vector<std::size_t>& crossing,
                                 const std::vector<bool>& samples_last) {
  const auto places = narrow_places(forward, crossing);
  for (std::size_t number = 0; number < places.size(); ++number) {
    const auto before = calls_before(forward, places[number]);
    if (!before) continue;
    const End end(forward, places[number], *before);
    const auto& calls = end.calls();
    if (calls.empty() || !end.has_rows() ||
        std::any_of(calls.begin(), calls.end(), [&](auto c) { return samples_last[c]; })) {
      continue;
    }
    auto tail = shape_of(end, {crossing, number});
    if (tail.bytes() <= most_bytes && keeps_places(end)) return tail;
  }
  return std::nullopt;
}

Tail with_numbers(const CapturedForward& forward, const Tail& shape) {
  const auto x = narrow_places(forward, shape.place.calls).at(shape.place.number);
  const End end(forward, x, calls_before(forward, x).value());
  auto tail = shape_of(end, shape.place);
  for (auto* const matrices : {&tail.by_x, &tail.by_layers}) {
    *matrices = matrices->is_cpu() ? in_memory(*matrices, matrices->scalar_type()) : matrices->contiguous();
  }
  for (std::int64_t feature = 0; feature < end.features(); ++feature) {
    Tensor cotangent = at::zeros({end.places(), end.features()}, tail.delta.options());
    cotangent.select(1, feature).fill_(1);
    const auto found = end.derivatives(cotangent);
    const auto store = [&](const Tensor& numbers, const Tensor& matrices, std::int64_t first) {
      if (numbers.defined()) matrices.select(1, feature).narrow(1, first, numbers.size(1)).copy_(numbers);
    };
    store(found.by_x, tail.by_x, 0);
    for (std::size_t k = 0; k < tail.layers.size(); ++k) {
      store(found.by_output[k], tail.by_layers, tail.layers[k].first_output);
      store(found.of_input[k], tail.by_layers, tail.layers[k].first_element);
    }
  }
  return tail;
}

Tensor delta_of_tail(const Tail& tail, const Edge& x, std::int64_t copies, const Tensor& direction) {
  Tensor at_x = x.function->input_metadata(x.input_nr).zeros_like();
  if (at_x.numel() != copies * tail.delta.numel()) throw std::logic_error("x has other places in copies of the batch");
  const Tensor delta = tail.delta.reshape({1, -1}).repeat({copies, 1}).reshape(at_x.sizes());
  const at::AutoGradMode with_graph(true);
  torch::autograd::impl::set_gradient_edge(at_x, x);
  return TailDelta::apply(at_x, delta, tail.by_x, direction);
}

std::int64_t rows_at_once_in_a_batch(const LayerStep& step) {
  constexpr std::int64_t enough = 16;
  constexpr std::uint64_t bytes_in_cache = 4 << 20;
  if (!step.tail || step.tail->bytes() < bytes_in_cache) return step.copies;
  return (enough + step.copies - 1) / step.copies * step.copies;
}

}  // namespace hessian_mpi::layers
