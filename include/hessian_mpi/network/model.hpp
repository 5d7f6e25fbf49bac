#pragma once
/// A network loaded from a file, in whichever of PyTorch's formats. Knows nothing of losses or Hessians.

#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"

namespace hessian_mpi::network {

/// A parameter or buffer under its qualified name, such as "layer.0.weight".
struct NamedTensor {
  std::string name;
  torch::Tensor value;
};

struct StateTensor {
  std::string name;
  torch::Tensor value;    ///< the one that forward() reads; undefined where it reads none
  bool optional = false;  ///< a state_dict may be without it: the file does not say
};

/// One loaded network. Implementations: TorchScriptModel, ExportedProgram.
class Model {
 public:
  virtual ~Model() = default;

  /// "TorchScript" or "exported program".
  virtual std::string format() const = 0;

  /// All parameters, in the order of the module's named_parameters(); a tensor shared by several names appears
  /// once, under the first; those with requires_grad == false are included. The tensors are the ones that
  /// forward() reads, leaves of the autograd graph: setting requires_grad on them has effect.
  virtual std::vector<NamedTensor> parameters() const = 0;

  /// Names of forward()'s arguments, in order; those in tuples and dicts one by one where the file has them so.
  virtual std::vector<std::string> input_names() const = 0;

  /// Converts floating parameters, buffers and constants to the dtype; integer ones keep theirs. Moves all of them to
  /// the device. Parameters keep their requires_grad. Invalidates tensors returned by parameters() before.
  virtual void convert(torch::Dtype dtype, torch::Device device) = 0;

  /// Puts the network in a mode. Throws InputError where the file fixes another one.
  virtual void set_mode(Mode mode) = 0;

  /// The network's output, connected to the parameters by autograd. Leaves parameters and buffers (running
  /// statistics) as they were, and derivatives of the result stay valid.
  /// Throws c10::Error or std::exception where the network itself throws.
  virtual c10::IValue forward(const std::vector<c10::IValue>& arguments) = 0;

  /// The tensors of a state_dict under all of its names: one shared by several names stands there once for each.
  virtual std::vector<StateTensor> state() const;

  /// Whether convert() to float64, when it is called next, leaves what the network casts to narrower dtypes as it is,
  /// rather than compute that in float64 as well.
  virtual void keep_casts(bool /*keep*/) {}
};

inline std::vector<StateTensor> Model::state() const {
  std::vector<StateTensor> all;
  for (const auto& [name, value] : parameters()) all.push_back({name, value});
  return all;
}

}  // namespace hessian_mpi::network
