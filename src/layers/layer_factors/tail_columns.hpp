#pragma once
/// What directions of the x of a step's tail (layer_tail.hpp) give in the columns of the layers in it: a product at
/// each place. Internal to the factored engine.

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "layer_tail.hpp"

namespace hessian_mpi::layers {

template <class Number>
class TailColumns {
 public:
  /// units: of the batch, each with as many places. The tail must outlive the object.
  TailColumns(const Tail& tail, std::int64_t units);

  bool has(std::size_t call) const { return tail_.columns_of(call) != nullptr; }
  /// Numbers of a direction in a unit: for each of its places, features.
  std::int64_t numbers_of_direction() const { return places_ * tail_.features(); }

  /// Where the numbers of a unit go for direction k; nowhere for nullptr, which is so for all k or none.
  using Destination = std::function<Number*(std::size_t k, std::int64_t unit)>;
  /// S and J of a layer in the tail, [place][outputs] and [place][features], for directions [unit][place][feature][k],
  /// k < count. Each number is one sum, whatever is made beside it.
  void follow(std::size_t call, const Number* directions, std::size_t count, const Destination& second,
              const Destination& derivatives) const;

 private:
  void follow(const Rows& numbers, std::int64_t unit, const Number* directions, std::size_t count,
              const Destination& to) const;

  const Tail& tail_;
  std::int64_t units_;
  std::int64_t places_;    // of a unit
  torch::Tensor numbers_;  // Tail::by_layers
};

}  // namespace hessian_mpi::layers
