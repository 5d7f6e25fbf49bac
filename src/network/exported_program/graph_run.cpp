#include <ATen/ATen.h>

#include <new>
#include <stdexcept>
#include <utility>

#include "casts.hpp"
#include "exported_program/graph.hpp"
#include "exported_program/operator_argument.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/exception_words.hpp"
#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {
namespace {

using c10::IValue;

/// Says already which operator failed.
struct NodeFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

IValue evaluate(const Element& element, const Values& values) {
  if (const auto* reference = std::get_if<ValueRef>(&element)) return values[reference->slot];
  return std::get<IValue>(element);
}

Values evaluate(const std::vector<Element>& elements, const Values& values) {
  Values list;
  list.reserve(elements.size());
  for (const Element& element : elements) list.push_back(evaluate(element, values));
  return list;
}

IValue evaluate_single(const Argument& argument, const Values& values, const Conversion& conversion) {
  return std::visit(
      Overloaded{
          [](const IValue& constant) { return constant; },
          [&](const ValueRef& reference) { return values[reference.slot]; },
          [&](const DeviceArgument&) { return IValue(conversion.device); },
          [](const std::vector<Element>&) -> IValue {
            throw std::invalid_argument("a list where one value is wanted");
          },
          [](const std::shared_ptr<const Graph>&) -> IValue { throw std::invalid_argument("a graph as a value"); },
      },
      argument);
}

// Operators that are called in a way of their own: because tensors lie otherwise in memory than at export, or for the
// derivative.
void call_operator(const c10::OperatorHandle& handle, torch::jit::Stack& stack, const Conversion& conversion) {
  const std::string& name = handle.operator_name().name;
  if (name == "aten::view" && handle.operator_name().overload_name.empty() && conversion.copies_for_views) {
    const at::Tensor viewed = stack[0].toTensor();
    const auto sizes = stack[1].toIntVector();
    stack = {at::reshape(viewed, sizes)};
  } else if (name == "aten::copy") {
    // run_decompositions() leaves it of writes into slices. It has no derivative in LibTorch, unlike copy_().
    const at::Tensor copy = at::empty_like(stack[0].toTensor()).copy_(stack[1].toTensor());
    stack = {copy};
  } else if (name.starts_with("aten::as_strided") && !stack[0].toTensor().is_contiguous()) {
    throw std::invalid_argument("reads a tensor by strides that is not in row-major order, as it was at export");
  } else {
    handle.callBoxed(stack);
  }
}

Values call(const c10::OperatorHandle& handle, const Node& node, const Values& values, const Conversion& conversion) {
  const auto& schema_arguments = handle.schema().arguments();
  torch::jit::Stack stack;
  stack.reserve(node.arguments.size());
  for (std::size_t i = 0; i < node.arguments.size(); ++i) {
    const Argument& argument = node.arguments[i];
    if (const auto* list = std::get_if<std::vector<Element>>(&argument)) {
      stack.push_back(to_operator_argument(evaluate(*list, values), schema_arguments[i]));
    } else if (std::holds_alternative<IValue>(argument)) {
      stack.push_back(std::get<IValue>(argument));  // was brought to the schema's type when the graph was read
    } else {
      stack.push_back(to_operator_argument(evaluate_single(argument, values, conversion), schema_arguments[i]));
    }
  }
  call_operator(handle, stack, conversion);
  return stack;
}

Values call(SymbolicFunction function, const Node& node, const Values& values, const Conversion& conversion) {
  Values arguments;
  for (const Argument& argument : node.arguments) arguments.push_back(evaluate_single(argument, values, conversion));
  return {function(arguments)};
}

RegionArgument region_argument(const Argument& argument, const Values& values, const Conversion& conversion) {
  if (const auto* graph = std::get_if<std::shared_ptr<const Graph>>(&argument)) return *graph;
  if (const auto* list = std::get_if<std::vector<Element>>(&argument)) return evaluate(*list, values);
  return evaluate_single(argument, values, conversion);
}

Values call(const Region* region, const Node& node, const Values& values, const Conversion& conversion) {
  std::vector<RegionArgument> arguments;
  for (const Argument& argument : node.arguments) arguments.push_back(region_argument(argument, values, conversion));
  return region->run(
      arguments, [&](const Graph& graph, Values inputs) { return run_graph(graph, std::move(inputs), conversion); });
}

void store(const std::vector<std::optional<std::size_t>>& slots, Values results, Values& values) {
  if (results.size() != slots.size()) {
    throw std::runtime_error(text("returned ", results.size(), " values where the program expects ", slots.size()));
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i]) values[*slots[i]] = std::move(results[i]);
  }
}

void store(const Node& node, Values results, Values& values) {
  if (node.outputs.size() == 1 && node.outputs[0].is_list && results.size() == 1 && results[0].isList()) {
    return store(node.outputs[0].slots, results[0].toListRef().vec(), values);
  }
  // Before 2.9, a region's results stood in one list.
  if (node.outputs.size() == 1 && node.outputs[0].is_list) return store(node.outputs[0].slots, results, values);
  if (results.size() != node.outputs.size()) {
    throw std::runtime_error(
        text("returned ", results.size(), " values where the program expects ", node.outputs.size()));
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Output& output = node.outputs[i];
    const bool unpack = output.is_list && results[i].isList();
    store(output.slots, unpack ? results[i].toListRef().vec() : Values{results[i]}, values);
  }
}

// Where nothing depends on the parameters, no_grad() makes no difference.
void check_grad_mode(const Node& node, const Values& results) {
  const bool region = std::holds_alternative<const Region*>(node.call);
  if (!node.lost_grad_mode || region) return;
  for (const IValue& result : results) {
    if (!result.isTensor() || !result.toTensor().requires_grad()) continue;
    throw std::runtime_error(
        "stood under torch.no_grad(), which run_decompositions() has taken out: save the program without it");
  }
}

void run_node(const Node& node, Values& values, const Conversion& conversion) {
  const LineOfPython line(node.python_line);
  Values results = std::visit([&](const auto& callee) { return call(callee, node, values, conversion); }, node.call);
  check_grad_mode(node, results);
  store(node, std::move(results), values);
}

}  // namespace

std::vector<IValue> run_graph(const Graph& graph, std::vector<IValue> inputs, const Conversion& conversion) {
  if (inputs.size() != graph.input_count) {
    throw std::invalid_argument(text("a graph takes ", graph.input_count, " inputs and was given ", inputs.size()));
  }
  Values values = std::move(inputs);
  values.resize(graph.slot_count);
  for (const Node& node : graph.nodes) {
    try {
      run_node(node, values, conversion);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const NodeFailed&) {
      throw;  // a node of a region
    } catch (const std::exception& error) {
      if (is_out_of_memory(error.what())) throw;
      throw NodeFailed(text("operator ", describe(node), " failed: ", message_of(error)));
    }
  }
  Values results;
  for (const Argument& output : graph.outputs) results.push_back(evaluate_single(output, values, conversion));
  return results;
}

}  // namespace hessian_mpi::network
