#pragma once
/// The graph of an exported program, read from JSON into calls of LibTorch's operators, and run. Internal to
/// exported_program.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "exported_program/region.hpp"
#include "exported_program/symbolic_function.hpp"

namespace hessian_mpi::network {

struct Graph;

/// A value of the run: an input of the graph or a result of an earlier node.
struct ValueRef {
  std::size_t slot = 0;
};
/// A device argument: the device that the model was exported on, replaced by the one it runs on.
struct DeviceArgument {};

using Element = std::variant<c10::IValue, ValueRef>;
/// What a node is called with; vector: a list. A missing constant is the IValue None.
using Argument =
    std::variant<c10::IValue, ValueRef, DeviceArgument, std::vector<Element>, std::shared_ptr<const Graph>>;

/// Where one returned value goes: one slot, or, for a returned list, one per element; nothing where it is not used.
struct Output {
  std::vector<std::optional<std::size_t>> slots;
  bool is_list = false;
};

struct Node {
  std::string name;         ///< of the operator, for messages: "aten.linear.default"
  std::string python_line;  ///< "net.py:12: return self.fc(x)", empty if the file does not say
  std::variant<c10::OperatorHandle, SymbolicFunction, const Region*> call;
  std::vector<Argument> arguments;  ///< for an operator: all of its schema's, in that order
  std::vector<Output> outputs;
  /// Stood under torch.no_grad() or enable_grad() until run_decompositions() took the block apart.
  bool lost_grad_mode = false;
};

/// Slots 0 .. input_count - 1 are the inputs, in order.
struct Graph {
  std::size_t input_count = 0;
  std::size_t slot_count = 0;
  std::vector<Node> nodes;
  std::vector<Argument> outputs;
};

/// What changes between the model as it was exported and as it runs, beside dtypes (casts.hpp).
struct Conversion {
  torch::Device device = torch::kCPU;  ///< of all device arguments
  /// Parameters, buffers and data lie in row-major order, which they may not have done at export: what cannot be a
  /// view any more becomes a copy. Not to be had where the program writes into tensors.
  bool copies_for_views = false;
};

/// "aten.linear.default (net.py:12: return self.fc(x))".
std::string describe(const Node& node);

/// The graphs that a node runs: none, but for a region's.
std::vector<const Graph*> graphs_of(const Node& node);

/// Reads the "graph" member of a program. Nothing runs. Throws InputError for operators that are unknown, not allowed
/// or called with arguments they do not take, and for constructs that are not supported; nlohmann's exceptions where
/// the document is not what torch.export writes.
Graph parse_graph(const nlohmann::json& graph);

/// Runs the nodes; returns the graph's outputs. Throws std::runtime_error naming the operator that failed and its line
/// of Python.
std::vector<c10::IValue> run_graph(const Graph& graph, std::vector<c10::IValue> inputs, const Conversion& conversion);

}  // namespace hessian_mpi::network
