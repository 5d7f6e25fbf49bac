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

#include "symbolic_function.hpp"

namespace hessian_mpi {

struct Graph;

/// A value of the run: an input of the graph or a result of an earlier node.
struct ValueRef {
  std::size_t slot = 0;
};
/// A dtype argument; follows a conversion of the model.
struct DtypeArgument {
  torch::Dtype dtype;
};
/// A device argument: the device that the model was exported on, replaced by the one it runs on.
struct DeviceArgument {};

using Element = std::variant<c10::IValue, ValueRef>;
/// What a node is called with; vector: a list. A missing constant is the IValue None.
using Argument = std::variant<c10::IValue, ValueRef, DtypeArgument, DeviceArgument, std::vector<Element>,
                              std::shared_ptr<const Graph>>;

/// Where one returned value goes: one slot, or, for a returned list, one per element; nothing where it is not used.
struct Output {
  std::vector<std::optional<std::size_t>> slots;
  bool is_list = false;
};

/// `with torch.no_grad()` or `torch.enable_grad()`: arguments are the flag, the graph, and the graph's inputs.
struct GradModeRegion {};

struct Node {
  std::string name;         ///< of the operator, for messages: "aten.linear.default"
  std::string python_line;  ///< "net.py:12: return self.fc(x)", empty if the file does not say
  std::variant<c10::OperatorHandle, SymbolicFunction, GradModeRegion> call;
  std::vector<Argument> arguments;  ///< for an operator: all of its schema's, in that order
  std::vector<Output> outputs;
};

/// Slots 0 .. input_count - 1 are the inputs, in order.
struct Graph {
  std::size_t input_count = 0;
  std::size_t slot_count = 0;
  std::vector<Node> nodes;
  std::vector<Argument> outputs;
};

/// What changes between the model as it was exported and as it runs: dtype arguments equal to exported_dtype become
/// dtype, device arguments become device.
struct Conversion {
  std::optional<torch::Dtype> exported_dtype;
  torch::Dtype dtype = torch::kFloat32;
  torch::Device device = torch::kCPU;
};

/// "aten.linear.default (net.py:12: return self.fc(x))".
std::string describe(const Node& node);

/// Reads the "graph" member of a program. Nothing runs. Throws InputError for operators that are unknown, not allowed
/// or called with arguments they do not take, and for constructs that are not supported; nlohmann's exceptions where
/// the document is not what torch.export writes.
Graph parse_graph(const nlohmann::json& graph);

/// Runs the nodes; returns the graph's outputs. Throws std::runtime_error naming the operator that failed and its line
/// of Python.
std::vector<c10::IValue> run_graph(const Graph& graph, std::vector<c10::IValue> inputs, const Conversion& conversion);

}  // namespace hessian_mpi
