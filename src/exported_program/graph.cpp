#include "graph.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "archive.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/operator_rules.hpp"
#include "hessian_mpi/printable.hpp"
#include "operator_argument.hpp"

namespace hessian_mpi {
namespace {

using c10::IValue;
using nlohmann::json;

constexpr int max_nesting = 64;

// --- Names ------------------------------------------------------------------------------------------------------

/// Names of one graph and their slots. A name is known from the node that makes it on: no node can read ahead.
class Names {
 public:
  std::size_t add() { return count_++; }
  std::size_t add(const std::string& name) {
    slots_[name] = count_;
    return count_++;
  }
  ValueRef find(const std::string& name) const {
    const auto found = slots_.find(name);
    if (found == slots_.end()) throw InputError(text("uses a value '", printable(name), "' that nothing computes"));
    return {found->second};
  }
  std::size_t count() const { return count_; }

 private:
  std::unordered_map<std::string, std::size_t> slots_;
  std::size_t count_ = 0;
};

// --- Where a node came from -------------------------------------------------------------------------------------

// The innermost line of the user's own code in a Python stack trace of lines `File "net.py", line 12, in forward`, each
// followed by its source; PyTorch's own files are of no use to the reader unless there are no others.
std::string python_line_from(const std::string& stack_trace) {
  static constexpr std::string_view start = "File \"", middle = "\", line ";
  std::string best, any;
  std::size_t at = 0;
  while ((at = stack_trace.find(start, at)) != std::string::npos) {
    at += start.size();
    const std::size_t split = stack_trace.find(middle, at);
    if (split == std::string::npos) break;
    const std::string file = stack_trace.substr(at, split - at);
    const std::size_t number = split + middle.size();
    const std::size_t comma = stack_trace.find(',', number), end = stack_trace.find('\n', number);
    any = file + ":" + stack_trace.substr(number, std::min(comma, end) - number);
    if (end != std::string::npos) {
      const std::size_t code = std::min(stack_trace.find_first_not_of(" \n", end), stack_trace.size());
      const std::string source = stack_trace.substr(code, stack_trace.find('\n', code) - code);
      if (!source.starts_with(start)) any += ": " + source;
    }
    if (!file.starts_with("torch/") && file.find("/torch/") == std::string::npos) best = any;
    at = number;
  }
  return printable(best.empty() ? any : best);
}

std::string python_line(const json& node) {
  const auto metadata = node.find("metadata");
  if (metadata == node.end() || !metadata->is_object()) return {};
  const auto stack_trace = metadata->find("stack_trace");
  return stack_trace == metadata->end() ? std::string{} : python_line_from(stack_trace->get<std::string>());
}

// --- Arguments --------------------------------------------------------------------------------------------------

// torch/_export/serde/schema.py, MemoryFormat and Layout; their numbers are not c10's.
IValue memory_format_from(const json& value) {
  static constexpr std::array formats = {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast,
                                         at::MemoryFormat::ChannelsLast3d, at::MemoryFormat::Preserve};
  const std::int64_t number = integer_from(value);
  if (number < 1 || number > static_cast<std::int64_t>(formats.size())) {
    throw InputError(text("memory format number ", number, " is not known"));
  }
  return static_cast<std::int64_t>(formats[static_cast<std::size_t>(number - 1)]);
}

IValue layout_from(const json& value) {
  constexpr std::int64_t strided = 7;
  if (integer_from(value) != strided) throw InputError("sparse and library-specific layouts are not supported");
  return static_cast<std::int64_t>(at::Layout::Strided);
}

// JSON knows no infinity: torch.export writes it as text.
double real_from(const json& value) {
  if (value.is_number()) return value.get<double>();
  const std::string word = value.get<std::string>();
  if (word == "Infinity") return std::numeric_limits<double>::infinity();
  if (word == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (word == "NaN") return std::numeric_limits<double>::quiet_NaN();
  throw InputError(text("not a number: ", printable(word)));
}

struct Tagged {
  std::string kind;
  const json& value;
};

// A union in torch.export's format: an object with one member, whose name says what it is.
Tagged tagged(const json& object) {
  if (!object.is_object() || object.size() != 1) throw InputError("an argument that is not of one kind");
  return {object.begin().key(), object.begin().value()};
}

std::optional<IValue> constant_from(const Tagged& given) {
  const auto& [kind, value] = given;
  if (kind == "as_none") return IValue();
  if (kind == "as_int") return IValue(integer_from(value));
  if (kind == "as_float") return IValue(real_from(value));
  if (kind == "as_bool") return IValue(value.get<bool>());
  if (kind == "as_string") return IValue(value.get<std::string>());
  if (kind == "as_memory_format") return memory_format_from(value);
  if (kind == "as_layout") return layout_from(value);
  if (kind == "as_complex") {
    return IValue(c10::complex<double>(real_from(value.at("real")), real_from(value.at("imag"))));
  }
  return std::nullopt;
}

std::optional<Element> element_from(const Tagged& given, const Names& names) {
  const auto& [kind, value] = given;
  if (auto constant = constant_from(given)) return *constant;
  if (kind == "as_tensor") return names.find(value.at("name").get<std::string>());
  if (kind == "as_optional_tensor") {
    const auto [inner, tensor] = tagged(value);
    if (inner == "as_none") return IValue();
    return names.find(tensor.at("name").get<std::string>());
  }
  if (kind == "as_sym_int" || kind == "as_sym_float" || kind == "as_sym_bool") {
    const auto [inner, symbol] = tagged(value);
    if (inner == "as_name") return names.find(symbol.get<std::string>());
    return constant_from({inner, symbol});
  }
  return std::nullopt;
}

// "as_ints" is a list of what "as_int" holds, and so on.
std::optional<std::vector<Element>> list_from(const Tagged& given, const Names& names) {
  if (!given.kind.ends_with('s') || !given.value.is_array()) return std::nullopt;
  const std::string single = given.kind.substr(0, given.kind.size() - 1);
  std::vector<Element> elements;
  for (const json& item : given.value) {
    auto element = element_from({single, item}, names);
    if (!element) return std::nullopt;
    elements.push_back(std::move(*element));
  }
  return elements;
}

Graph parse_graph(const json& graph, int nesting);

Argument argument_from(const json& object, const Names& names, int nesting) {
  const Tagged given = tagged(object);
  if (given.kind == "as_scalar_type") return DtypeArgument{dtype_from(given.value)};
  if (given.kind == "as_device") return DeviceArgument{};
  if (given.kind == "as_graph") {
    return std::make_shared<const Graph>(parse_graph(given.value.at("graph"), nesting + 1));
  }
  if (auto element = element_from(given, names)) {
    return std::visit([](auto&& value) -> Argument { return value; }, std::move(*element));
  }
  if (auto list = list_from(given, names)) return std::move(*list);
  throw InputError(text("has an argument of the kind ", printable(given.kind), ", which is not supported"));
}

// --- Operators --------------------------------------------------------------------------------------------------

/// A program from somebody else's hands must compute with tensors and do nothing else: operators that return nothing
/// exist for their effect (printing, setting .grad, tuning caches), except assertions.
std::optional<std::string> reason_against(const c10::FunctionSchema& schema) {
  static constexpr std::array<std::string_view, 6> assertions = {"aten::_assert_async",
                                                                 "aten::_assert_scalar",
                                                                 "aten::_assert_tensor_metadata",
                                                                 "aten::sym_constrain_range",
                                                                 "aten::sym_constrain_range_for_size",
                                                                 "aten::_linalg_check_errors"};
  const std::string& name = schema.name();
  if (auto reason = reason_against_operator(name)) return reason;
  if (name == "aten::requires_grad_") return "changes what is differentiated";
  const bool asserts = std::find(assertions.begin(), assertions.end(), name) != assertions.end();
  if (schema.returns().empty() && !asserts) return "does more than compute with the network's tensors";
  return std::nullopt;
}

// "torch.ops.aten.conv2d.default" -> aten::conv2d; overloads other than "default" have a name.
c10::OperatorHandle find_operator(const std::string& target) {
  static constexpr std::string_view start = "torch.ops.";
  const std::size_t space = target.find('.', start.size()), overload = target.rfind('.');
  const bool whole = target.starts_with(start) && space != std::string::npos && overload > space;
  const std::string domain = whole ? target.substr(start.size(), space - start.size()) : "";
  if (domain != "aten") {
    throw InputError("is not supported: only operators of PyTorch's own library (torch.ops.aten) can be called");
  }
  const std::string name = "aten::" + target.substr(space + 1, overload - space - 1);
  const std::string variant = target.substr(overload + 1);
  const auto handle = c10::Dispatcher::singleton().findSchema({name, variant == "default" ? std::string{} : variant});
  if (!handle) throw InputError("is not known to this version of LibTorch");
  if (const auto reason = reason_against(handle->schema())) throw InputError("is not allowed: it " + *reason);
  return *handle;
}

// A constant is brought to the type that the schema wants now, so that a wrong one is found before anything runs.
Argument checked_argument(Argument given, const c10::Argument& schema) try {
  const auto* constant = std::get_if<IValue>(&given);
  if (constant == nullptr) return given;
  if (!is_known_constant(*constant, schema)) {
    throw std::invalid_argument(text("is the number ", constant->toInt(), ", which has no meaning"));
  }
  return to_operator_argument(*constant, schema);
} catch (const std::exception& error) {
  throw InputError(text("argument '", schema.name(), "' ", error.what()));
}

std::vector<Argument> operator_arguments(const json& inputs, const c10::FunctionSchema& schema, const Names& names,
                                         int nesting) {
  std::vector<std::optional<Argument>> given(schema.arguments().size());
  for (const json& input : inputs) {
    const std::string name = input.at("name").get<std::string>();
    const std::optional<int> index = schema.argumentIndexWithName(name);
    if (!index) throw InputError(text("has no argument '", printable(name), "' in this version of LibTorch"));
    const auto i = static_cast<std::size_t>(*index);
    given[i] = checked_argument(argument_from(input.at("arg"), names, nesting), schema.arguments()[i]);
  }
  std::vector<Argument> arguments;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    if (!given[i] && !argument.default_value()) throw InputError(text("lacks its argument '", argument.name(), "'"));
    arguments.push_back(given[i] ? std::move(*given[i]) : Argument(*argument.default_value()));
  }
  return arguments;
}

// Python has a default dtype and the graph leaves it out: `torch.zeros(3)` in a float64 program means float64.
// What the operator returned at export tells.
void fill_in_dtype(Node& node, const c10::FunctionSchema& schema, const json& node_json, const json& tensor_values) {
  const std::optional<int> index = schema.argumentIndexWithName("dtype");
  const bool is_factory =
      index && std::none_of(schema.arguments().begin(), schema.arguments().end(),
                            [](const auto& a) { return a.type()->isSubtypeOf(*c10::TensorType::get()); });
  if (!is_factory || node_json.at("outputs").size() != 1 || !node_json.at("outputs")[0].contains("as_tensor")) return;
  Argument& dtype = node.arguments[static_cast<std::size_t>(*index)];
  const auto* constant = std::get_if<IValue>(&dtype);
  if (constant == nullptr || !constant->isNone()) return;
  const std::string name = node_json.at("outputs")[0].at("as_tensor").at("name").get<std::string>();
  if (const auto meta = tensor_values.find(name); meta != tensor_values.end()) {
    dtype = DtypeArgument{dtype_from(meta->at("dtype"))};
  }
}

// --- Nodes ------------------------------------------------------------------------------------------------------

std::optional<std::size_t> output_slot(const Tagged& given, Names& names) {
  const auto& [kind, value] = given;
  if (kind == "as_tensor") return names.add(value.at("name").get<std::string>());
  if (kind == "as_optional_tensor" || kind == "as_sym_int" || kind == "as_sym_float" || kind == "as_sym_bool") {
    const auto [inner, named] = tagged(value);
    if (inner == "as_tensor") return names.add(named.at("name").get<std::string>());
    if (inner == "as_name") return names.add(named.get<std::string>());
  }
  return std::nullopt;  // None, or a number that the export found constant and wrote where it is used
}

Output output_from(const json& object, Names& names) {
  const Tagged given = tagged(object);
  if (!given.value.is_array()) return {{output_slot(given, names)}, false};
  Output output{{}, true};
  const std::string single = given.kind.substr(0, given.kind.size() - 1);
  for (const json& item : given.value) output.slots.push_back(output_slot({single, item}, names));
  return output;
}

// A value or a constant, not a list of them.
Argument single_from(const json& object, const Names& names, int nesting) {
  Argument argument = argument_from(object, names, nesting);
  if (std::holds_alternative<std::vector<Element>>(argument)) throw InputError("has a list where one value belongs");
  return argument;
}

std::vector<Argument> plain_arguments(const json& inputs, const Names& names, int nesting) {
  std::vector<Argument> arguments;
  for (const json& input : inputs) arguments.push_back(single_from(input.at("arg"), names, nesting));
  return arguments;
}

void check_region(const Node& node) {
  const auto& arguments = node.arguments;
  const bool fits = arguments.size() >= 2 && std::holds_alternative<IValue>(arguments[0]) &&
                    std::get<IValue>(arguments[0]).isBool() &&
                    std::holds_alternative<std::shared_ptr<const Graph>>(arguments[1]) &&
                    std::get<std::shared_ptr<const Graph>>(arguments[1])->input_count == arguments.size() - 2;
  if (!fits) throw InputError("is not what torch.no_grad() is exported as");
}

void parse_call(Node& node, const json& node_json, const json& graph, const Names& names, int nesting) {
  static constexpr std::string_view higher_order = "torch.ops.higher_order.";
  const std::string target = node_json.at("target").get<std::string>();
  const json& inputs = node_json.at("inputs");
  if (const SymbolicFunction function = find_symbolic_function(target)) {
    node.call = function;
    node.arguments = plain_arguments(inputs, names, nesting);
  } else if (target == "torch.ops.higher_order.wrap_with_set_grad_enabled") {
    node.call = GradModeRegion{};
    node.arguments = plain_arguments(inputs, names, nesting);
    check_region(node);
  } else if (target.starts_with(higher_order)) {
    throw InputError(
        "is not supported: control flow, autocast and other constructs that call parts of the program; save the model "
        "with torch.jit.script instead");
  } else {
    const c10::OperatorHandle handle = find_operator(target);
    node.call = handle;
    node.arguments = operator_arguments(inputs, handle.schema(), names, nesting);
    fill_in_dtype(node, handle.schema(), node_json, graph.at("tensor_values"));
  }
}

Node parse_node(const json& node_json, const json& graph, Names& names, int nesting) {
  Node node{{}, python_line(node_json), GradModeRegion{}, {}, {}};
  node.name = printable(node_json.at("target").get<std::string>());
  if (node.name.starts_with("torch.ops.")) node.name.erase(0, std::string_view("torch.ops.").size());
  try {
    parse_call(node, node_json, graph, names, nesting);
  } catch (const InputError& error) {
    throw InputError(text("operator ", describe(node), " ", error.what()));
  }
  for (const json& output : node_json.at("outputs")) node.outputs.push_back(output_from(output, names));
  return node;
}

// Says something about dtypes and devices at export, computes nothing, and would contradict a conversion.
bool is_metadata_assertion(const json& node) {
  return node.at("target").get<std::string>() == "torch.ops.aten._assert_tensor_metadata.default";
}

Graph parse_graph(const json& graph_json, int nesting) {
  if (nesting > max_nesting) throw InputError("nests graphs too deeply");
  Graph graph;
  Names names;
  for (const json& input : graph_json.at("inputs")) {
    if (!output_slot(tagged(input), names)) names.add();  // a constant: nothing refers to it by name
  }
  graph.input_count = names.count();
  for (const json& node : graph_json.at("nodes")) {
    if (!is_metadata_assertion(node)) graph.nodes.push_back(parse_node(node, graph_json, names, nesting));
  }
  for (const json& output : graph_json.at("outputs")) {
    graph.outputs.push_back(single_from(output, names, nesting));
  }
  graph.slot_count = names.count();
  return graph;
}

}  // namespace

std::string describe(const Node& node) {
  return node.python_line.empty() ? node.name : text(node.name, " (", node.python_line, ")");
}

Graph parse_graph(const json& graph) {
  return parse_graph(graph, 0);
}

}  // namespace hessian_mpi
