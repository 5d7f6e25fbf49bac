#include "exported_program.hpp"

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <new>
#include <set>
#include <string_view>
#include <utility>

#include "casts.hpp"
#include "exported_program/archive.hpp"
#include "exported_program/graph.hpp"
#include "exported_program/inputs.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/network/torch_error.hpp"

namespace hessian_mpi::network {
namespace {

using c10::IValue;
using nlohmann::json;

constexpr std::int64_t supported_schema = 8;  // torch/_export/serde/schema.py, SCHEMA_VERSION

/// Where an input of the graph comes from: the parameters, the state (buffers and constants), the user's inputs, each
/// by index; or nowhere, where the graph holds the constant itself.
struct InputSource {
  enum class From { parameter, state, user, nothing };
  From from = From::nothing;
  std::size_t index = 0;
};

/// A mode that the graph has built in, and the operator it shows in.
struct FixedMode {
  Mode mode;
  std::string where;
};

// --- The mode ----------------------------------------------------------------------------------------------------

const IValue* constant_argument(const Node& node, const c10::FunctionSchema& schema, const std::string& name) {
  const std::optional<int> index = schema.argumentIndexWithName(name);
  return index ? std::get_if<IValue>(&node.arguments[static_cast<std::size_t>(*index)]) : nullptr;
}

bool is_zero(const IValue* value) {
  return value != nullptr && value->isDouble() && value->toDouble() == 0.0;
}

// The flag that eval() and train() change, where it makes a difference: dropout of nothing is the same in both modes,
// and so is a batch norm that keeps no statistics.
std::optional<bool> training_flag(const Node& node, const c10::FunctionSchema& schema) {
  const IValue* statistics = constant_argument(node, schema, "running_mean");
  if (statistics != nullptr && statistics->isNone()) return std::nullopt;
  const std::string_view name = schema.name();
  if (name == "aten::_native_batch_norm_legit_no_training") return false;
  if (name == "aten::_native_batch_norm_legit" && schema.overload_name() == "no_stats") return std::nullopt;
  if (name == "aten::scaled_dot_product_attention") {
    return is_zero(constant_argument(node, schema, "dropout_p")) ? std::nullopt : std::optional(true);
  }
  if (is_zero(constant_argument(node, schema, "p")) || is_zero(constant_argument(node, schema, "dropout"))) {
    return std::nullopt;
  }
  for (const char* flag : {"training", "train", "use_input_stats"}) {
    const IValue* value = constant_argument(node, schema, flag);
    if (value != nullptr && value->isBool()) return value->toBool();
  }
  return std::nullopt;
}

// One operator in training mode makes the program one for training: the others may have been kept in eval on purpose.
std::optional<FixedMode> fixed_mode(const Graph& graph) {
  std::optional<FixedMode> found;
  const auto look_at = [&found](std::optional<FixedMode> here) {
    if (here && (!found || here->mode == Mode::train)) found = std::move(here);
    return found && found->mode == Mode::train;
  };
  for (const Node& node : graph.nodes) {
    if (const auto* handle = std::get_if<c10::OperatorHandle>(&node.call)) {
      const auto flag = training_flag(node, handle->schema());
      if (flag && look_at(FixedMode{*flag ? Mode::train : Mode::eval, describe(node)})) return found;
    }
    for (const Graph* part : graphs_of(node)) {
      if (look_at(fixed_mode(*part))) return found;
    }
  }
  return found;
}

bool writes_in_place(const Graph& graph) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& node) {
    if (const auto* handle = std::get_if<c10::OperatorHandle>(&node.call)) return handle->schema().is_mutable();
    const auto parts = graphs_of(node);
    return std::any_of(parts.begin(), parts.end(), [](const Graph* part) { return writes_in_place(*part); });
  });
}

// --- The model ---------------------------------------------------------------------------------------------------

class ExportedProgram final : public Model {
 public:
  explicit ExportedProgram(const std::filesystem::path& file);

  std::string format() const override { return "exported program"; }
  std::vector<NamedTensor> parameters() const override { return parameters_; }
  std::vector<StateTensor> state() const override;
  std::vector<std::string> input_names() const override { return user_inputs_.names(); }
  void convert(torch::Dtype dtype, torch::Device device) override;
  void keep_casts(bool keep) override { casts_are_kept_ = keep; }
  void set_mode(Mode mode) override;
  IValue forward(const std::vector<IValue>& arguments) override;

 private:
  void read_inputs(ExportedArchive& archive, const json& program);
  void add_input(ExportedArchive& archive, const json& spec, const json& graph);
  std::size_t add_parameter(torch::Tensor value, const std::string& name);
  void add_state(torch::Tensor value, const std::string& name);
  void name_state_dict(ExportedArchive& archive);
  void read_outputs(const json& specs);
  std::vector<IValue> graph_inputs(const std::vector<IValue>& user) const;
  std::vector<std::uint32_t> parameter_versions() const;
  void check_unchanged(const std::vector<std::uint32_t>& versions) const;

  std::string file_;
  Graph graph_;
  bool writes_in_place_ = false;
  std::vector<InputSource> sources_;
  std::vector<NamedTensor> parameters_;
  std::vector<torch::Tensor> state_;  ///< buffers and constants
  std::vector<NamedDtype> state_of_file_;
  std::vector<std::pair<std::string, InputSource>> names_of_state_dict_;
  ExpectedInputs user_inputs_;
  std::vector<std::size_t> user_outputs_;  ///< which of the graph's outputs the user sees
  torch::Device device_ = torch::kCPU;
  std::vector<torch::Dtype> dtypes_of_file_;
  bool casts_are_kept_ = false;
  Casts casts_;
};

void check_version(const json& program) {
  const std::int64_t major = integer_from(program.at("schema_version").at("major"));
  if (major != supported_schema) {
    throw InputError(text("is of version ", major, " of torch.export's format, this program reads version ",
                          supported_schema, "; export the model again with PyTorch 2.13"));
  }
}

std::set<std::string> used_parameters(const json& input_specs) {
  std::set<std::string> names;
  for (const json& spec : input_specs) {
    const auto parameter = spec.find("parameter");
    if (parameter != spec.end()) names.insert(parameter->at("parameter_name").get<std::string>());
  }
  return names;
}

ExportedProgram::ExportedProgram(const std::filesystem::path& file) : file_(file.string()) {
  ExportedArchive archive(file);
  const json program = archive.program();
  check_version(program);
  graph_ = parse_graph(program.at("graph_module").at("graph"));
  writes_in_place_ = writes_in_place(graph_);
  const json& signature = program.at("graph_module").at("signature");
  for (const std::string& name : archive.parameter_names(used_parameters(signature.at("input_specs")))) {
    add_parameter(archive.weight(name), name);
  }
  read_inputs(archive, program);
  name_state_dict(archive);
  read_outputs(signature.at("output_specs"));
  dtypes_of_file_ = dtypes_of(parameters_);
  if (dtypes_of_file_.empty()) dtypes_of_file_ = user_inputs_.dtypes();
  user_inputs_.set_ranges(program.at("range_constraints"));
  // Absent before PyTorch 2.9.
  if (const auto guards = program.find("guards_code"); guards != program.end()) user_inputs_.set_guards(*guards);
}

void ExportedProgram::read_inputs(ExportedArchive& archive, const json& program) {
  const json& graph = program.at("graph_module").at("graph");
  const json& specs = program.at("graph_module").at("signature").at("input_specs");
  if (specs.size() != graph_.input_count) {
    throw InputError(text("names ", specs.size(), " inputs for a graph with ", graph_.input_count));
  }
  for (const json& spec : specs) add_input(archive, spec, graph);
}

void ExportedProgram::add_input(ExportedArchive& archive, const json& spec, const json& graph) {
  if (spec.size() != 1) throw InputError("has an input that is not of one kind");
  const std::string kind = spec.begin().key();
  const json& value = spec.begin().value();
  if (kind == "parameter") {
    const std::string name = value.at("parameter_name").get<std::string>();
    sources_.push_back({InputSource::From::parameter, add_parameter(archive.weight(name), name)});
  } else if (kind == "buffer") {
    const std::string name = value.at("buffer_name").get<std::string>();
    add_state(value.at("persistent").get<bool>() ? archive.weight(name) : archive.constant(name), name);
  } else if (kind == "tensor_constant") {
    const std::string name = value.at("tensor_constant_name").get<std::string>();
    add_state(archive.constant(name), name);
  } else if (kind == "constant_input") {
    sources_.push_back({InputSource::From::nothing, 0});
    user_inputs_.add_constant();
  } else if (kind == "user_input") {
    sources_.push_back({InputSource::From::user, user_inputs_.count()});
    const json& argument = value.at("arg");
    if (argument.contains("as_tensor")) {
      const std::string name = argument.at("as_tensor").at("name").get<std::string>();
      user_inputs_.add_tensor(name, graph.at("tensor_values").at(name));
    } else if (argument.contains("as_sym_int")) {
      user_inputs_.add_number(argument.at("as_sym_int").at("as_name").get<std::string>(), ExpectedInput::Kind::integer);
    } else if (argument.contains("as_sym_float")) {
      user_inputs_.add_number(argument.at("as_sym_float").at("as_name").get<std::string>(), ExpectedInput::Kind::real);
    } else {
      throw InputError(text("takes an input that is neither a tensor nor a number (", printable(argument.dump()), ")"));
    }
  } else {
    throw InputError(text("has an input of the kind ", printable(kind), ", which is not supported"));
  }
}

// The parameter's index; a tensor that is known already keeps the name that it has.
std::size_t ExportedProgram::add_parameter(torch::Tensor value, const std::string& name) {
  if (value.is_complex() && value.requires_grad()) {
    throw InputError(text("has a complex parameter '", printable(name),
                          "', by which a Hessian is not taken: keep it as real numbers (torch.view_as_real)"));
  }
  const auto same = std::find_if(parameters_.begin(), parameters_.end(),
                                 [&](const NamedTensor& other) { return other.value.is_same(value); });
  const auto index = static_cast<std::size_t>(same - parameters_.begin());
  if (same == parameters_.end()) parameters_.push_back({name, std::move(value)});
  return index;
}

void ExportedProgram::add_state(torch::Tensor value, const std::string& name) {
  const auto same = std::find_if(state_.begin(), state_.end(), [&](const auto& other) { return other.is_same(value); });
  sources_.push_back({InputSource::From::state, static_cast<std::size_t>(same - state_.begin())});
  if (same != state_.end()) return;
  state_of_file_.push_back({name, value.scalar_type()});
  state_.push_back(value.set_requires_grad(false));
}

// Those that the graph does not use are names alone.
void ExportedProgram::name_state_dict(ExportedArchive& archive) {
  for (const std::string& name : archive.weight_names()) {
    InputSource source;
    const torch::Tensor* const value = archive.known_weight(name);
    for (std::size_t p = 0; value != nullptr && p < parameters_.size(); ++p) {
      if (parameters_[p].value.is_same(*value)) source = {InputSource::From::parameter, p};
    }
    for (std::size_t k = 0; value != nullptr && k < state_.size(); ++k) {
      if (state_[k].is_same(*value)) source = {InputSource::From::state, k};
    }
    names_of_state_dict_.emplace_back(name, source);
  }
}

std::vector<StateTensor> ExportedProgram::state() const {
  std::vector<StateTensor> all;
  for (const auto& [name, source] : names_of_state_dict_) {
    const bool is_parameter = source.from == InputSource::From::parameter;
    const bool is_state = source.from == InputSource::From::state;
    all.push_back({name, is_parameter ? parameters_[source.index].value
                         : is_state   ? state_[source.index]
                                      : torch::Tensor{}});
  }
  return all;
}

void ExportedProgram::read_outputs(const json& specs) {
  if (specs.size() != graph_.outputs.size()) {
    throw InputError(text("names ", specs.size(), " outputs for a graph with ", graph_.outputs.size()));
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::string kind = specs[i].size() == 1 ? specs[i].begin().key() : "";
    if (kind == "user_output" || kind == "loss_output") {
      user_outputs_.push_back(i);
    } else if (kind != "buffer_mutation" && kind != "user_input_mutation") {
      throw InputError(kind == "parameter_mutation"
                           ? "changes its own parameters in forward(), so it has no derivative with respect to them"
                           : text("has an output of the kind ", printable(kind), ", which is not supported"));
    }
  }
  if (user_outputs_.empty()) throw InputError("returns nothing");
}

void ExportedProgram::convert(torch::Dtype dtype, torch::Device device) {
  device_ = device;
  const auto convert_one = [&](torch::Tensor& tensor, torch::Dtype wanted) {
    if (tensor.scalar_type() == wanted && tensor.device() == device) return;
    tensor = tensor.detach().to(device, wanted).set_requires_grad(tensor.requires_grad());
  };
  casts_ = Casts(dtypes_of_file_, dtype, casts_are_kept_);
  for (auto& [name, value] : parameters_) {
    convert_one(value, value.is_complex()          ? c10::toComplexType(dtype)
                       : value.is_floating_point() ? dtype
                                                   : value.scalar_type());
  }
  for (std::size_t k = 0; k < state_.size(); ++k) convert_one(state_[k], casts_.of_state(state_of_file_[k].dtype));
}

void ExportedProgram::set_mode(Mode mode) {
  const auto fixed = fixed_mode(graph_);
  if (!fixed || fixed->mode == mode) return;
  const bool train = fixed->mode == Mode::train;
  throw InputError(text(file_, " was exported in ", name_of(fixed->mode),
                        " mode, which is fixed in the file (operator ", fixed->where, "): call model.",
                        train ? "eval" : "train", "() before torch.export.export, or say --mode ",
                        name_of(fixed->mode)));
}

IValue ExportedProgram::forward(const std::vector<IValue>& arguments) try {
  const std::vector<std::uint32_t> versions = parameter_versions();
  const CastsInEffect casts(casts_);
  WidenedCasts::note(state_of_file_, casts_);
  const std::vector<IValue> results =
      run_graph(graph_, graph_inputs(user_inputs_.checked(arguments)), {device_, !writes_in_place_});
  check_unchanged(versions);
  if (user_outputs_.size() == 1) return results[user_outputs_.front()];
  std::vector<IValue> seen;
  for (const std::size_t output : user_outputs_) seen.push_back(results[output]);
  return c10::ivalue::Tuple::create(std::move(seen));
} catch (const InputError& error) {
  throw InputError(text(file_, " ", error.what()));
}

// Buffers and constants are copied for every run, so that running statistics neither add up nor change under the
// graph of derivatives; inputs only where something in the program writes into tensors.
std::vector<IValue> ExportedProgram::graph_inputs(const std::vector<IValue>& user) const {
  std::vector<torch::Tensor> copies;
  for (const torch::Tensor& tensor : state_) copies.push_back(tensor.clone());
  std::vector<IValue> inputs;
  for (const InputSource& source : sources_) {
    switch (source.from) {
      case InputSource::From::parameter:
        inputs.emplace_back(parameters_[source.index].value);
        break;
      case InputSource::From::state:
        inputs.emplace_back(copies[source.index]);
        break;
      case InputSource::From::nothing:
        inputs.emplace_back();
        break;
      case InputSource::From::user:
        const IValue& given = user[source.index];
        inputs.push_back(writes_in_place_ && given.isTensor() ? IValue(given.toTensor().clone()) : given);
        break;
    }
  }
  return inputs;
}

std::vector<std::uint32_t> ExportedProgram::parameter_versions() const {
  std::vector<std::uint32_t> versions;
  for (const NamedTensor& parameter : parameters_) {
    versions.push_back(static_cast<std::uint32_t>(parameter.value._version()));
  }
  return versions;
}

void ExportedProgram::check_unchanged(const std::vector<std::uint32_t>& versions) const {
  const std::vector<std::uint32_t> now = parameter_versions();
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    if (now[p] != versions[p]) {
      throw InputError(text("changes its parameter '", printable(parameters_[p].name),
                            "' in forward(), so it has no derivative with respect to it"));
    }
  }
}

// Up to PyTorch 2.7, torch.export.save wrote a zip archive without the folder that LibTorch's reader wants. The names
// of the members stand at the end of the file.
bool is_of_the_oldest_format(const std::filesystem::path& file) {
  constexpr std::uintmax_t tail = 1 << 16;
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (error) return false;
  std::ifstream in(file, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(size - std::min(size, tail)));
  const std::string end{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return end.find("serialized_exported_program.json") != std::string::npos;
}

}  // namespace

bool is_exported_program(const std::filesystem::path& file) {
  try {
    caffe2::serialize::PyTorchStreamReader reader(file.string());
    if (reader.hasRecord("archive_format")) return true;
    const auto records = reader.getAllRecords();
    return std::any_of(records.begin(), records.end(), [](const std::string& record) {
      return record.starts_with("models/") && record.ends_with(".json");
    });
  } catch (const std::exception&) {
    return is_of_the_oldest_format(file);
  }
}

std::unique_ptr<Model> load_exported_program(const std::filesystem::path& file) try {
  if (is_of_the_oldest_format(file)) {
    throw InputError(
        "was written by torch.export.save of PyTorch 2.7 or earlier; write it again with PyTorch 2.8 or later: "
        "torch.export.save(torch.export.load('old.pt2'), 'new.pt2')");
  }
  return std::make_unique<ExportedProgram>(file);
} catch (const InputError& error) {
  throw InputError(text(file.string(), " ", error.what()));
} catch (const json::exception& error) {
  throw InputError(text(file.string(), " is damaged or not written by torch.export.save: ", printable(error.what())));
} catch (const std::bad_alloc&) {
  throw InputError(text(file.string(), " does not fit into memory, or is damaged"));
} catch (const std::exception& error) {
  throw InputError(text(file.string(), " cannot be read as an exported program: ", message_of(error)));
}

}  // namespace hessian_mpi::network
