#include "exported_program/graph.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "exported_program/archive.hpp"
#include "exported_program/operator_argument.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "operator_rules.hpp"

namespace hessian_mpi::network {
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

// A file of the user's: neither one of PyTorch's nor code that PyTorch made up ("<eval_with_key>.12").
bool is_own_file(const std::string& file) {
  return !file.starts_with('<') && !file.starts_with("torch/") && file.find("/torch/") == std::string::npos;
}

// The innermost line of the user's own code in a Python stack trace of lines `File "net.py", line 12, in forward`, each
// followed by its source; if there is none, the innermost line at all. And whether it is one of the user's own code.
std::pair<std::string, bool> python_line_from(const std::string& stack_trace) {
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
    if (is_own_file(file)) best = any;
    at = number;
  }
  return {printable(best.empty() ? any : best), !best.empty()};
}

// What the export wrote beside a node; empty where it wrote nothing.
std::string metadata(const json& node, const char* key) {
  const auto all = node.find("metadata");
  if (all == node.end() || !all->is_object()) return {};
  const auto found = all->find(key);
  return found == all->end() ? std::string{} : found->get<std::string>();
}

// The innermost of the modules in "L__self__,,mine.Net;L__self___fc,fc,torch.nn.modules.linear.Linear".
std::string module_from(const std::string& stack) {
  const std::size_t begin = stack.rfind(';') == std::string::npos ? 0 : stack.rfind(';') + 1;
  const std::size_t path = stack.find(',', begin), type = stack.rfind(',');
  if (path == std::string::npos || path >= type) return {};
  const std::string name = stack.substr(path + 1, type - path - 1);
  return printable(text("forward() of ", name.empty() ? "" : "'" + name + "', ", stack.substr(type + 1)));
}

// "net.py:12: return self.fc(x)"; the module where the file knows no line of the user's own code.
std::string python_line(const json& node) {
  const auto [line, is_own] = python_line_from(metadata(node, "stack_trace"));
  const std::string module = is_own ? "" : module_from(metadata(node, "nn_module_stack"));
  return module.empty() ? line : module;
}

// The function of Python that became this node: "detach" of "detach_1;method_descriptor.detach".
bool comes_from(const json& node, std::string_view function) {
  const std::string name = metadata(node, "torch_fn");
  return name.starts_with(std::string(function) + "_") || name.starts_with(std::string(function) + ";");
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
  if (given.kind == "as_scalar_type") return IValue(static_cast<std::int64_t>(dtype_from(given.value)));
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
  if (target.starts_with("torch._functorch.")) {
    throw InputError("is a part of torch.vmap: export the network with program.run_decompositions({})");
  }
  if (domain != "aten") {
    throw InputError(text("is not supported: only operators of PyTorch's own library (torch.ops.aten) can be called",
                          domain == "transformers"
                              ? "; transformers computes experts by those with experts_implementation=\"batched_mm\""
                              : ""));
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
    dtype = IValue(static_cast<std::int64_t>(dtype_from(meta->at("dtype"))));
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

// "g" where a graph belongs, "l" where a list, "v" where a value; "*": values from here on.
bool fits(const Argument& argument, char kind) {
  if (kind == 'g') return std::holds_alternative<std::shared_ptr<const Graph>>(argument);
  if (kind == 'l') return std::holds_alternative<std::vector<Element>>(argument);
  return !std::holds_alternative<std::shared_ptr<const Graph>>(argument) &&
         !std::holds_alternative<std::vector<Element>>(argument);
}

// Keywords say how PyTorch is to run the region (use_reentrant=False), not what it computes.
std::vector<Argument> region_arguments(const json& inputs, const Region& region, const Names& names, int nesting) {
  std::vector<Argument> arguments;
  for (const json& input : inputs) {
    if (!input.at("name").get<std::string>().empty()) continue;
    arguments.push_back(argument_from(input.at("arg"), names, nesting));
  }
  const bool open = region.takes.ends_with('*');
  const std::string_view kinds = region.takes.substr(0, region.takes.size() - (open ? 1 : 0));
  bool fit = open ? arguments.size() >= kinds.size() : arguments.size() == kinds.size();
  for (std::size_t i = 0; fit && i < arguments.size(); ++i) fit = fits(arguments[i], i < kinds.size() ? kinds[i] : 'v');
  if (!fit) throw InputError("is called with other arguments than PyTorch 2.13 exports");
  return arguments;
}

// True where a tensor lay in row-major order at export for sure: sizes may be symbols.
bool lay_in_row_major_order(const json& meta) {
  const json &sizes = meta.at("sizes"), &strides = meta.at("strides");
  std::int64_t expected = 1;
  for (std::size_t d = std::min(sizes.size(), strides.size()); d-- > 0;) {
    if (!strides[d].contains("as_int")) return false;
    const bool matters = !sizes[d].contains("as_int") || integer_from(sizes[d].at("as_int")) != 1;
    if (matters && integer_from(strides[d].at("as_int")) != expected) return false;
    if (!sizes[d].contains("as_int")) return d == 0;
    if (__builtin_mul_overflow(expected, integer_from(sizes[d].at("as_int")), &expected)) return false;
  }
  return true;
}

// What reads memory by strides of its own finds something else where the layout has changed.
void check_layout(const c10::FunctionSchema& schema, const json& inputs, const json& tensor_values) {
  if (!schema.name().starts_with("aten::as_strided") || inputs.empty() || !inputs[0].at("arg").contains("as_tensor"))
    return;
  const auto meta = tensor_values.find(inputs[0].at("arg").at("as_tensor").at("name").get<std::string>());
  if (meta != tensor_values.end() && lay_in_row_major_order(*meta)) return;
  throw InputError("reads a tensor by strides that was not in row-major order at export: make it contiguous() before");
}

// run_decompositions() puts another operator where detach() stood.
std::string target_of(const json& node) {
  const std::string target = node.at("target").get<std::string>();
  return target == "torch.ops.aten.alias.default" && comes_from(node, "detach") ? "torch.ops.aten.detach.default"
                                                                                : target;
}

// What torch.export leaves out, where the file still tells that it did.
void check_derivative(const json& node) {
  if (metadata(node, "source_fn_stack").find("autograd.Function") == std::string::npos) return;
  throw InputError(
      "belongs to a torch.autograd.Function, whose backward() torch.export leaves out: write it with PyTorch's own "
      "operators");
}

void parse_call(Node& node, const json& node_json, const json& graph, const Names& names, int nesting) {
  static constexpr std::string_view higher_order = "torch.ops.higher_order.";
  const std::string target = target_of(node_json);
  const json& inputs = node_json.at("inputs");
  check_derivative(node_json);
  if (const SymbolicFunction function = find_symbolic_function(target)) {
    node.call = function;
    node.arguments = plain_arguments(inputs, names, nesting);
  } else if (const Region* region = find_region(target)) {
    node.call = region;
    node.arguments = region_arguments(inputs, *region, names, nesting);
  } else if (target.starts_with(higher_order)) {
    throw InputError(
        "is not supported: of the constructs that run parts of a program, torch.no_grad, autocast, checkpoint, cond, "
        "while_loop, map and scan can be run; write it with these, or with plain operators");
  } else {
    const c10::OperatorHandle handle = find_operator(target);
    node.call = handle;
    node.arguments = operator_arguments(inputs, handle.schema(), names, nesting);
    fill_in_dtype(node, handle.schema(), node_json, graph.at("tensor_values"));
    check_layout(handle.schema(), inputs, graph.at("tensor_values"));
  }
}

Node parse_node(const json& node_json, const json& graph, Names& names, int nesting) {
  Node node{
      {}, python_line(node_json), SymbolicFunction{}, {}, {}, comes_from(node_json, "wrap_with_set_grad_enabled")};
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

// torch.export ends its graphs in copies of new values into changed buffers, by this name. Nothing reads them, buffers
// are copies here, and the write may spoil what derivatives need: a tensor that was changed in place is its own new
// value.
bool is_write_back(const json& node) {
  if (node.at("target").get<std::string>() != "torch.ops.aten.copy_.default") return false;
  const json& outputs = node.at("outputs");
  return outputs.size() == 1 && outputs[0].contains("as_tensor") &&
         outputs[0].at("as_tensor").at("name").get<std::string>().starts_with("copy__default");
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
    if (is_metadata_assertion(node) || is_write_back(node)) continue;
    graph.nodes.push_back(parse_node(node, graph_json, names, nesting));
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

std::vector<const Graph*> graphs_of(const Node& node) {
  std::vector<const Graph*> graphs;
  for (const Argument& argument : node.arguments) {
    if (const auto* graph = std::get_if<std::shared_ptr<const Graph>>(&argument)) graphs.push_back(graph->get());
  }
  return graphs;
}

Graph parse_graph(const json& graph) {
  return parse_graph(graph, 0);
}

}  // namespace hessian_mpi::network
