#include <ATen/core/grad_mode.h>

#include <new>
#include <stdexcept>
#include <utility>

#include "graph.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/torch_error.hpp"
#include "operator_argument.hpp"

namespace hessian_mpi {
namespace {

using c10::IValue;

using Values = std::vector<IValue>;

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

IValue dtype_value(torch::Dtype dtype, const Conversion& conversion) {
  return static_cast<std::int64_t>(dtype == conversion.exported_dtype ? conversion.dtype : dtype);
}

IValue evaluate_single(const Argument& argument, const Values& values, const Conversion& conversion) {
  return std::visit(
      Overloaded{
          [](const IValue& constant) { return constant; },
          [&](const ValueRef& reference) { return values[reference.slot]; },
          [&](const DtypeArgument& given) { return dtype_value(given.dtype, conversion); },
          [&](const DeviceArgument&) { return IValue(conversion.device); },
          [](const std::vector<Element>&) -> IValue {
            throw std::invalid_argument("a list where one value is wanted");
          },
          [](const std::shared_ptr<const Graph>&) -> IValue { throw std::invalid_argument("a graph as a value"); },
      },
      argument);
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
  handle.callBoxed(stack);
  return stack;
}

Values call(SymbolicFunction function, const Node& node, const Values& values, const Conversion& conversion) {
  Values arguments;
  for (const Argument& argument : node.arguments) arguments.push_back(evaluate_single(argument, values, conversion));
  return {function(arguments)};
}

Values call(GradModeRegion, const Node& node, const Values& values, const Conversion& conversion) {
  const at::AutoGradMode mode(std::get<IValue>(node.arguments[0]).toBool());
  Values inputs;
  for (std::size_t i = 2; i < node.arguments.size(); ++i) {
    inputs.push_back(evaluate_single(node.arguments[i], values, conversion));
  }
  return run_graph(*std::get<std::shared_ptr<const Graph>>(node.arguments[1]), std::move(inputs), conversion);
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

void run_node(const Node& node, Values& values, const Conversion& conversion) {
  Values results = std::visit([&](const auto& callee) { return call(callee, node, values, conversion); }, node.call);
  store(node, std::move(results), values);
}

}  // namespace

std::vector<IValue> run_graph(const Graph& graph, std::vector<IValue> inputs, const Conversion& conversion) {
  if (inputs.size() != graph.input_count) throw std::logic_error("inputs do not fit the graph");
  Values values = std::move(inputs);
  values.resize(graph.slot_count);
  for (const Node& node : graph.nodes) {
    if (std::holds_alternative<GradModeRegion>(node.call)) {
      run_node(node, values, conversion);  // its own nodes say where they failed
      continue;
    }
    try {
      run_node(node, values, conversion);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      throw std::runtime_error(text("operator ", describe(node), " failed: ", message_of(error)));
    }
  }
  Values results;
  for (const Argument& output : graph.outputs) results.push_back(evaluate_single(output, values, conversion));
  return results;
}

}  // namespace hessian_mpi
