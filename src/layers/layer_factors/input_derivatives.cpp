#include "layer_factors/input_derivatives.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "hessian_mpi/matrix/partition.hpp"
#include "hessian_mpi/ranks/together_until_done.hpp"
#include "number.hpp"

namespace hessian_mpi::layers {

using torch::Tensor;

template <class Number>
InputDerivatives<Number>::InputDerivatives(StepForward& forward, std::vector<Layer> layers,
                                           std::vector<std::int64_t> unit_begins, std::uint64_t memory,
                                           const ranks::Communicator& communicator,
                                           const std::function<void()>& between)
    : forward_(forward), layers_(std::move(layers)), unit_begins_(std::move(unit_begins)), memory_(memory) {
  kept_ = communicator.max(std::int64_t{bytes() > memory_}) == 0;
  if (kept_) make_all(communicator, between);
}

template <class Number>
std::uint64_t InputDerivatives<Number>::bytes() const {
  std::int64_t numbers = 0;
  for (const auto& layer : layers_) {
    for (const auto m : layer.upstream) numbers += layer.elements * units() * of_unit(m);
  }
  return static_cast<std::uint64_t>(numbers) * sizeof(Number);
}

template <class Number>
bool InputDerivatives<Number>::depends(std::size_t m, std::size_t l) const {
  const auto& upstream = layers_[m].upstream;
  return std::find(upstream.begin(), upstream.end(), l) != upstream.end();
}

template <class Number>
std::size_t InputDerivatives<Number>::place_in_upstream(std::size_t l, std::size_t m) const {
  const auto& upstream = layers_[l].upstream;
  return static_cast<std::size_t>(std::find(upstream.begin(), upstream.end(), m) - upstream.begin());
}

template <class Number>
std::int64_t InputDerivatives<Number>::passes_of(std::size_t l) const {
  const auto copies = forward_.step().copies;
  return layers_[l].upstream.empty() ? 0 : (layers_[l].elements + copies - 1) / copies;
}

template <class Number>
void InputDerivatives<Number>::make_all(const ranks::Communicator& communicator, const std::function<void()>& between) {
  struct Pass {
    std::int64_t batch;
    std::size_t layer;
    std::int64_t number;
  };
  std::vector<Pass> own;
  communicator.together([&] {
    for (const auto& layer : layers_) {
      auto& of_layer = all_.emplace_back();
      for (const auto m : layer.upstream) {
        of_layer.emplace_back(static_cast<std::size_t>(layer.elements * units() * of_unit(m)));
      }
    }
    // Split by passes, not by elements: which elements share one must not depend on the ranks.
    for (std::int64_t b = 0; b < forward_.batches(); ++b) {
      for (std::size_t l = 0; l < layers_.size(); ++l) {
        const auto passes = matrix::share(passes_of(l), communicator.rank(), communicator.size());
        for (auto pass = passes.begin; pass < passes.end; ++pass) own.push_back({b, l, pass});
      }
    }
  });
  const auto run_next = [&](std::size_t done) {
    const auto [b, l, pass] = own[done];
    const auto begin = unit_begins_[static_cast<std::size_t>(b)];
    const auto units_of_batch = unit_begins_[static_cast<std::size_t>(b) + 1] - begin;
    auto& of_layer = all_[l];
    const auto& upstream = layers_[l].upstream;
    run_pass(l, pass, b, [&](std::size_t place, std::int64_t element, const Number* numbers) {
      const auto width = of_unit(upstream[place]);
      std::copy_n(numbers, units_of_batch * width, of_layer[place].data() + (element * units() + begin) * width);
    });
    return std::size_t{1};
  };
  ranks::together_until_done(own.size(), run_next, between, communicator);
  share_all(communicator);
}

template <class Number>
void InputDerivatives<Number>::share_all(const ranks::Communicator& communicator) {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    for (auto& derivatives : all_[l]) {
      const auto bytes = static_cast<std::int64_t>(derivatives.size() * sizeof(Number)) / layers_[l].elements;
      std::vector<std::int64_t> begins;
      for (int r = 0; r <= communicator.size(); ++r) {
        const auto first = matrix::share(passes_of(l), r, communicator.size()).begin * forward_.step().copies;
        begins.push_back(std::min(first, layers_[l].elements) * bytes);
      }
      communicator.complete(reinterpret_cast<char*>(derivatives.data()), begins);
    }
  }
}

// One backward pass: neighbouring elements of the input of all units of a batch, one for each copy of it.
template <class Number>
void InputDerivatives<Number>::run_pass(std::size_t l, std::int64_t pass, std::int64_t batch, const Take& take) {
  const auto& layer = layers_[l];
  const auto& step = forward_.step();
  const auto& graph = forward_.graph(batch, step.copies);
  const auto c = step.layers[l].call;
  const auto& call = graph.call(c);
  std::vector<std::size_t> targets;
  for (const auto m : layer.upstream) targets.push_back(step.layers[m].call);
  const auto own = forward_.order(l, batch, step.copies);
  const auto first = pass * step.copies;
  const auto count = std::min(step.copies, layer.elements - first);
  const auto units_of_copy = units_of(call, own) / step.copies;
  Tensor cotangent = at::zeros({step.copies, units_of_copy, layer.elements}, call.input.options());
  for (std::int64_t k = 0; k < count; ++k) cotangent[k].select(1, first + k).fill_(1);
  const auto found = graph.input_derivatives(c, input_from_units(cotangent.flatten(0, 1), call, own), targets);
  for (std::size_t place = 0; place < found.size(); ++place) {
    if (!found[place].defined()) continue;
    const auto m = layer.upstream[place];
    const Tensor ordered =
        output_by_unit(found[place], graph.call(targets[place]), forward_.order(m, batch, step.copies))
            .to(at::kCPU, dtype_of_number<Number>)
            .contiguous();
    const auto* numbers = ordered.template const_data_ptr<Number>();
    for (std::int64_t k = 0; k < count; ++k) take(place, first + k, numbers + k * units_of_copy * of_unit(m));
  }
}

template <class Number>
const Number* InputDerivatives<Number>::of_element(std::size_t l, std::int64_t element, std::size_t m) {
  const auto place = place_in_upstream(l, m);
  const auto width = units() * of_unit(m);
  if (kept_) return all_[l][place].data() + element * width;
  const auto copies = forward_.step().copies;
  const auto pass = element / copies;
  auto found = made_again_.find({l, pass});
  if (found == made_again_.end()) {
    std::vector<std::vector<Number>> made;
    std::uint64_t bytes = 0;
    for (const auto above : layers_[l].upstream) {
      made.emplace_back(static_cast<std::size_t>(copies * units() * of_unit(above)));
      bytes += made.back().size() * sizeof(Number);
    }
    if (bytes_made_again_ + bytes > memory_ / 2) {
      made_again_.clear();
      bytes_made_again_ = 0;
    }
    for (std::int64_t b = 0; b < forward_.batches(); ++b) {
      const auto begin = unit_begins_[static_cast<std::size_t>(b)];
      const auto end = unit_begins_[static_cast<std::size_t>(b) + 1];
      run_pass(l, pass, b, [&](std::size_t above, std::int64_t e, const Number* numbers) {
        const auto of_one = of_unit(layers_[l].upstream[above]);
        std::copy_n(numbers, (end - begin) * of_one,
                    made[above].data() + ((e - pass * copies) * units() + begin) * of_one);
      });
    }
    bytes_made_again_ += bytes;
    found = made_again_.emplace(std::pair(l, pass), std::move(made)).first;
  }
  return found->second[place].data() + (element - pass * copies) * width;
}

// As many as share a line of the cache; where all is made again, as many as there is memory for, for fewer passes.
template <class Number>
std::int64_t InputDerivatives<Number>::outputs_at_once(std::size_t l) const {
  constexpr std::int64_t of_a_line = 64 / static_cast<std::int64_t>(sizeof(Number));
  if (kept_) return of_a_line;
  std::int64_t numbers = 1;
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    if (depends(m, l)) numbers += layers_[m].elements * units() * layers_[l].positions;
  }
  const auto bytes = static_cast<std::uint64_t>(numbers) * sizeof(Number);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(memory_ / 2 / bytes));
}

template <class Number>
const Number* InputDerivatives<Number>::by_output(std::size_t m, std::size_t l, std::int64_t output) {
  const bool there = turned_.layer == l && output >= turned_.first && output < turned_.first + turned_.count;
  if (!there) turn(l, output);
  const auto width = units() * layers_[l].positions * layers_[m].elements;
  return turned_.of_layer[m].data() + (output - turned_.first) * width;
}

template <class Number>
void InputDerivatives<Number>::turn(std::size_t l, std::int64_t first) {
  turned_ = {l, first, std::min(outputs_at_once(l), layers_[l].outputs - first), {}};
  turned_.of_layer.resize(layers_.size());
  for (std::size_t m = 0; m < layers_.size(); ++m) {
    if (!depends(m, l)) continue;
    const auto places = units() * layers_[l].positions;
    turned_.of_layer[m].resize(static_cast<std::size_t>(turned_.count * places * layers_[m].elements));
    if (kept_) {
      turn_from_all(m);
    } else {
      turn_from_passes(m);
    }
  }
}

template <class Number>
void InputDerivatives<Number>::turn_from_all(std::size_t m) {
  const auto l = turned_.layer;
  const auto places = units() * layers_[l].positions;
  const auto elements = layers_[m].elements;
  const Number* const all = all_[m][place_in_upstream(m, l)].data() + turned_.first;
  Number* const turned = turned_.of_layer[m].data();
  for (std::int64_t k = 0; k < places; ++k) {
    for (std::int64_t e = 0; e < elements; ++e) {
      const Number* const from = all + (e * places + k) * layers_[l].outputs;
      for (std::int64_t p = 0; p < turned_.count; ++p) turned[(p * places + k) * elements + e] = from[p];
    }
  }
}

template <class Number>
void InputDerivatives<Number>::turn_from_passes(std::size_t m) {
  const auto l = turned_.layer;
  const auto place = place_in_upstream(m, l);
  const auto places = units() * layers_[l].positions;
  const auto elements = layers_[m].elements;
  Number* const turned = turned_.of_layer[m].data();
  for (std::int64_t b = 0; b < forward_.batches(); ++b) {
    const auto begin = unit_begins_[static_cast<std::size_t>(b)] * layers_[l].positions;
    const auto end = unit_begins_[static_cast<std::size_t>(b) + 1] * layers_[l].positions;
    for (std::int64_t pass = 0; pass < passes_of(m); ++pass) {
      run_pass(m, pass, b, [&](std::size_t above, std::int64_t e, const Number* numbers) {
        if (above != place) return;
        for (auto k = begin; k < end; ++k) {
          const Number* const from = numbers + (k - begin) * layers_[l].outputs + turned_.first;
          for (std::int64_t p = 0; p < turned_.count; ++p) turned[(p * places + k) * elements + e] = from[p];
        }
      });
    }
  }
}

template class InputDerivatives<float>;
template class InputDerivatives<double>;

}  // namespace hessian_mpi::layers
