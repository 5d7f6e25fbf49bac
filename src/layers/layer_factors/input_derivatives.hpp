#pragma once
/// J: derivatives of the numbers that flow into layers by the outputs of layers before them. Kept whole where memory
/// allows it, made once, over all ranks; else made again on each rank for the range of rows in hand. Internal to the
/// factored engine.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "hessian_mpi/ranks/communicator.hpp"
#include "layer_factors/step_forward.hpp"

namespace hessian_mpi::layers {

template <class Number>
class InputDerivatives {
 public:
  /// A layer of the step as seen here.
  struct Layer {
    std::int64_t elements = 0;          ///< of a unit's input
    std::int64_t positions = 0;         ///< in a unit
    std::int64_t outputs = 0;           ///< at each
    std::vector<std::size_t> upstream;  ///< layers of the step
  };

  /// Collective. unit_begins: the first unit of each batch, and the end. memory: bytes that all of them may take,
  /// beside as many for what is made again. go_on: asked by all ranks between passes, see together_until_done(). The
  /// forward must outlive the object.
  InputDerivatives(StepForward& forward, std::vector<Layer> layers, std::vector<std::int64_t> unit_begins,
                   std::uint64_t memory, const ranks::Communicator& communicator, const std::function<void()>& between);

  /// Bytes of all of them.
  std::uint64_t bytes() const;
  bool depends(std::size_t m, std::size_t l) const;

  /// Of an element of l's input, by all outputs of m, on which it depends: [u][t of m][outputs of m]. Valid until the
  /// next call.
  const Number* of_element(std::size_t l, std::int64_t element, std::size_t m);

  /// Of all elements of m's input, which depends on l, by an output of l: [u][t of l][elements of m]. Valid until the
  /// next call.
  const Number* by_output(std::size_t m, std::size_t l, std::int64_t output);

 private:
  std::int64_t units() const { return unit_begins_.back(); }
  std::int64_t of_unit(std::size_t m) const { return layers_[m].positions * layers_[m].outputs; }
  std::int64_t passes_of(std::size_t l) const;
  std::size_t place_in_upstream(std::size_t l, std::size_t m) const;
  void make_all(const ranks::Communicator& communicator, const std::function<void()>& between);
  void share_all(const ranks::Communicator& communicator);
  /// An element of a batch's units by the outputs of the layer upstream at this place: [u][t][outputs].
  using Take = std::function<void(std::size_t place, std::int64_t element, const Number* numbers)>;
  void run_pass(std::size_t l, std::int64_t pass, std::int64_t batch, const Take& take);
  void turn(std::size_t l, std::int64_t first);
  void turn_from_all(std::size_t m);
  void turn_from_passes(std::size_t m);
  std::int64_t outputs_at_once(std::size_t l) const;

  StepForward& forward_;
  std::vector<Layer> layers_;
  std::vector<std::int64_t> unit_begins_;
  std::uint64_t memory_;
  bool kept_ = false;                                  // all of them, on all ranks
  std::vector<std::vector<std::vector<Number>>> all_;  // of each layer by each upstream: [elements][u][t][outputs]
  /// By some neighbouring outputs of a layer: of each layer [output][u][t][elements].
  struct Turned {
    std::size_t layer = 0;
    std::int64_t first = 0;
    std::int64_t count = 0;
    std::vector<std::vector<Number>> of_layer;
  };
  Turned turned_;
  std::map<std::pair<std::size_t, std::int64_t>, std::vector<std::vector<Number>>> made_again_;  // of a layer's pass
  std::uint64_t bytes_made_again_ = 0;
};

}  // namespace hessian_mpi::layers
