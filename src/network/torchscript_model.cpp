#include "torchscript_model.hpp"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/csrc/jit/runtime/print_handler.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>

#include "archive_check.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/network/torch_error.hpp"
#include "operator_rules.hpp"
#include "torchscript_model/check.hpp"
#include "torchscript_model/nodes.hpp"

namespace hessian_mpi::network {
namespace {

using Object = c10::intrusive_ptr<c10::ivalue::Object>;

struct Submodule {
  std::string prefix;  // "" or "layer.0."
  Object object;
};

void append_submodules(const Object& object, const std::string& prefix, std::vector<Submodule>& found) {
  const bool seen = std::any_of(found.begin(), found.end(), [&](const auto& other) { return other.object == object; });
  if (seen) return;
  found.push_back({prefix, object});
  const auto type = object->type();
  for (std::size_t slot = 0; slot < type->numAttributes(); ++slot) {
    const c10::IValue value = object->getSlot(slot);
    if (value.isModule()) append_submodules(value.toObject(), prefix + type->getAttributeName(slot) + ".", found);
  }
}

// The module and all below it in the order of Python's named_modules(): a module before those in it, each once.
std::vector<Submodule> submodules(const torch::jit::Module& module) {
  std::vector<Submodule> found;
  append_submodules(module._ivalue(), "", found);
  return found;
}

bool is_parameter(const Object& object, std::size_t slot) {
  return object->type()->is_parameter(slot) && object->getSlot(slot).isTensor();
}

// Whether a call of the module can change the value: numbers and strings are replaced, never changed.
bool is_mutable(const c10::IValue& value) {
  return value.isTensor() || value.isList() || value.isTuple() || value.isGenericDict() || value.isObject();
}

// While it lives, the module has copies of its state (all attributes but parameters and submodules) in place of the
// state itself. Attributes that hold parameters, such as the list of weights of an LSTM, go on holding the parameters.
class BorrowedState {
 public:
  explicit BorrowedState(const torch::jit::Module& module) {
    const torch::NoGradGuard no_grad;
    const auto modules = submodules(module);
    c10::IValue::HashIdentityIValueMap copies;
    for (const auto& [prefix, object] : modules) {
      for (std::size_t slot = 0; slot < object->type()->numAttributes(); ++slot) {
        if (is_parameter(object, slot)) copies.emplace(object->getSlot(slot), object->getSlot(slot));
      }
    }
    for (const auto& [prefix, object] : modules) {
      for (std::size_t slot = 0; slot < object->type()->numAttributes(); ++slot) {
        const c10::IValue value = object->getSlot(slot);
        if (is_parameter(object, slot) || value.isModule()) continue;
        owned_.push_back({object, slot, value});
        if (is_mutable(value)) object->setSlot(slot, copy_of(value, copies));
      }
    }
  }
  BorrowedState(const BorrowedState&) = delete;
  BorrowedState& operator=(const BorrowedState&) = delete;
  ~BorrowedState() {
    for (auto& [object, slot, value] : owned_) object->setSlot(slot, std::move(value));
  }

 private:
  struct Owned {
    Object object;
    std::size_t slot;
    c10::IValue value;
  };

  static c10::IValue copy_of(const c10::IValue& value, c10::IValue::HashIdentityIValueMap& copies) {
    try {
      return value.deepcopy(copies);
    } catch (const c10::Error&) {
      return value;  // an object of a C++ class, which cannot be copied
    }
  }

  std::vector<Owned> owned_;
};

// A constant that the operator is called with as this argument; none where it has no such argument, or computes it.
std::optional<c10::IValue> constant_argument(const torch::jit::Node& node, const c10::FunctionSchema& schema,
                                             const char* name) {
  const auto index = schema.argumentIndexWithName(name);
  return index ? torch::jit::toIValue(node.input(static_cast<std::size_t>(*index))) : std::nullopt;
}

// The flag that eval() and train() change, where it is a constant in the code and makes a difference: dropout of
// nothing is the same in both modes, and so is a normalisation that keeps no statistics.
std::optional<bool> constant_training(const torch::jit::Node& node) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr || !node.kind().is_aten()) return std::nullopt;
  const auto statistics = constant_argument(node, *schema, "running_mean");
  if (statistics && statistics->isNone()) return std::nullopt;
  for (const char* rate : {"p", "dropout", "dropout_p"}) {
    const auto value = constant_argument(node, *schema, rate);
    if (value && value->isDouble() && value->toDouble() == 0) return std::nullopt;
  }
  // Its rate is the flag: networks pass 0 in eval mode.
  if (schema->name() == "aten::scaled_dot_product_attention") {
    return constant_argument(node, *schema, "dropout_p") ? std::optional(true) : std::nullopt;
  }
  for (const char* flag : {"train", "training", "use_input_stats"}) {
    const auto value = constant_argument(node, *schema, flag);
    if (value && value->isBool()) return value->toBool();
  }
  return std::nullopt;
}

bool is_cpu_or_gpu(const c10::IValue& value) {
  return value.isDevice() && (value.toDevice().is_cpu() || value.toDevice().is_cuda());
}

// Tensors that were made outside of a traced function.
void move_tensor(torch::jit::Node& constant, torch::Device device) {
  const auto value = c10::attr::value;
  constant.t_(value, constant.t(value).to(device));
  constant.output()->inferTypeFrom(constant.t(value));
}

// Tracing writes into the code the device of every tensor that is made. Code that asks whether it runs on a device of
// another kind is answered as before.
void move_device(torch::jit::Node& constant, torch::Device device) {
  const auto given = torch::jit::toIValue(constant.output());
  if (!given || !is_cpu_or_gpu(*given)) return;
  const bool of_this_kind = given->toDevice().type() == device.type();
  const torch::jit::WithInsertPoint before(&constant);
  auto* const moved = constant.owningGraph()->insertConstant(device);
  const auto uses = constant.output()->uses();  // a copy, since replacing changes them
  for (const auto& use : uses) {
    const bool compares = use.user->kind() == c10::aten::eq || use.user->kind() == c10::aten::ne;
    if (!compares || of_this_kind) use.user->replaceInput(use.offset, moved);
  }
}

void move_constant(torch::jit::Node& node, torch::Device device) {
  const auto value = c10::attr::value;
  if (node.kind() != c10::prim::Constant || !node.hasAttribute(value)) return;
  if (node.kindOf(value) == torch::jit::AttributeKind::t) move_tensor(node, device);
  if (node.output()->type()->kind() == c10::TypeKind::DeviceObjType) move_device(node, device);
}

// What scripted code makes out of no tensor and without a device would be on the CPU.
void set_default_device(torch::jit::Node& node, torch::Device device) {
  const auto* const schema = node.maybeSchema();
  if (schema == nullptr || !node.kind().is_aten()) return;
  const auto given = constant_argument(node, *schema, "device");
  if (!given || !given->isNone()) return;
  const bool takes_tensor = std::any_of(node.inputs().begin(), node.inputs().end(), [](const auto* input) {
    return input->type()->isSubtypeOf(*c10::TensorType::get());
  });
  if (takes_tensor) return;
  const torch::jit::WithInsertPoint before(&node);
  const auto place = static_cast<std::size_t>(*schema->argumentIndexWithName("device"));
  node.replaceInput(place, node.owningGraph()->insertConstant(device));
}

// x.cpu() and x.cuda(): where all others are.
void replace_by_to_device(torch::jit::Node& node, torch::Device device) {
  const std::string_view name = node.kind().toQualString();
  if (name != "aten::cpu" && name != "aten::cuda") return;
  const torch::jit::WithInsertPoint before(&node);
  auto& graph = *node.owningGraph();
  node.output()->replaceAllUsesWith(graph.insert(c10::aten::to, {node.input(0), device}));
  node.destroy();
}

void move_code(const torch::jit::Module& module, torch::Device device) {
  visit_functions(module, [&](const torch::jit::Function&, torch::jit::Block& code) {
    std::vector<torch::jit::Node*> nodes;  // as they are before any is replaced
    visit_nodes(code, [&](torch::jit::Node& node) { nodes.push_back(&node); });
    for (torch::jit::Node* node : nodes) {
      move_constant(*node, device);
      set_default_device(*node, device);
      replace_by_to_device(*node, device);
    }
  });
}

// Attributes such as self.device = torch.device("cpu"), for tensors that the module makes.
void move_device_attributes(const torch::jit::Module& module, torch::Device device) {
  for (const auto& [prefix, object] : submodules(module)) {
    for (std::size_t slot = 0; slot < object->type()->numAttributes(); ++slot) {
      if (is_cpu_or_gpu(object->getSlot(slot))) object->setSlot(slot, device);
    }
  }
}

bool reads_training(const torch::jit::Node& node) {
  return node.kind() == c10::prim::GetAttr && node.s(c10::attr::name) == "training";
}

// The mode written into the code by tracing or freezing; none where the code looks at the attribute `training`, or
// where nothing in it depends on a mode. One operator in train mode makes it train: others may be in eval on purpose.
std::optional<Mode> fixed_mode(const torch::jit::Module& module) {
  bool adjustable = false;
  std::optional<Mode> fixed;
  for (const auto& [prefix, object] : submodules(module)) {
    for (torch::jit::Function* method : object->type()->methods()) {
      visit_nodes(*torch::jit::toGraphFunction(*method).graph()->block(), [&](const torch::jit::Node& node) {
        adjustable = adjustable || reads_training(node);
        const auto training = constant_training(node);
        if (training && fixed != Mode::train) fixed = *training ? Mode::train : Mode::eval;
      });
    }
  }
  return adjustable ? std::nullopt : fixed;
}

// The caller's tensors stay as they are where the module writes into what it is given.
std::vector<c10::IValue> copies_of(const std::vector<c10::IValue>& arguments) {
  std::vector<c10::IValue> copies;
  for (const auto& argument : arguments) {
    copies.push_back(argument.isTensor() ? c10::IValue(argument.toTensor().clone()) : argument);
  }
  return copies;
}

// Counts of writes into each tensor.
std::vector<std::uint64_t> versions_of(const std::vector<NamedTensor>& tensors) {
  std::vector<std::uint64_t> versions;
  for (const auto& tensor : tensors) versions.push_back(static_cast<std::uint64_t>(tensor.value._version()));
  return versions;
}

// LibTorch's compiler runs what stands for default values of arguments, constants of classes and fields of named tuples
// while it reads a file: it must not know how to reach others.
torch::jit::Module load_without_files(const std::filesystem::path& file) {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const auto* name : operators_on_files) {
      const auto known = torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name));  // a copy: it gets shorter
      for (const auto& overload : known) torch::jit::deregisterOperator(overload->schema());
    }
  });
  try {
    return torch::jit::load(file.string(), torch::kCPU);
  } catch (const std::exception& error) {
    for (const std::string name : operators_on_files) {
      if (std::string_view(error.what()).find("Unknown builtin op: " + name) == std::string_view::npos) continue;
      throw InputError(text("calls ", name, ": that ", *reason_against_operator(name)));
    }
    throw;
  }
}

// Before anything in it is run, LibTorch has to be able to read it without harm.
torch::jit::Module checked_module(const std::filesystem::path& file) {
  check_archive(file);
  caffe2::serialize::PyTorchStreamReader archive(file.string());
  for (const std::string& member : archive.getAllRecords()) {
    const auto name = archive_name(member);
    if (!name.starts_with("code/")) continue;
    const auto [bytes, size] = archive.getRecord(member);
    const std::string_view content(static_cast<const char*>(bytes.get()), size);
    if (name.ends_with(".py")) check_source(member, content);
    if (!name.ends_with(".debug_pkl")) continue;
    check_pickle(archive, member, /*folder=*/"");
    check_source_lines(member, content);
  }
  check_pickle(archive, "constants.pkl", "constants");
  check_pickle(archive, "data.pkl", "data");
  auto module = load_without_files(file);
  check_functions(module);
  check_attributes(module);
  return module;
}

}  // namespace

TorchScriptModel::TorchScriptModel(torch::jit::Module module)
    : module_(std::move(module)), dtypes_of_file_(dtypes_of(parameters())) {
  for (const auto& [name, value, is_buffer] : state()) {
    if (is_buffer && value.defined()) state_of_file_.push_back({name, value.scalar_type()});
  }
  c10::IValue(module_._ivalue()).visit([&](const c10::IValue& value) {
    if (value.isTensor() && value.toTensor().defined()) {
      dtype_of_file_[value.toTensor().unsafeGetTensorImpl()] = value.toTensor().scalar_type();
    }
    return false;
  });
}

std::vector<NamedTensor> TorchScriptModel::parameters() const {
  std::vector<NamedTensor> result;
  for (const auto& [prefix, object] : submodules(module_)) {
    for (std::size_t slot = 0; slot < object->type()->numAttributes(); ++slot) {
      if (!is_parameter(object, slot)) continue;
      const torch::Tensor value = object->getSlot(slot).toTensor();
      const bool seen =
          std::any_of(result.begin(), result.end(), [&](const auto& p) { return p.value.is_same(value); });
      if (!seen) result.push_back({prefix + object->type()->getAttributeName(slot), value});
    }
  }
  return result;
}

namespace {

void append_state(const Object& object, const std::string& prefix, std::vector<StateTensor>& all) {
  const auto type = object->type();
  for (std::size_t slot = 0; slot < type->numAttributes(); ++slot) {
    const c10::IValue value = object->getSlot(slot);
    const auto& name = type->getAttributeName(slot);
    if (value.isModule()) append_state(value.toObject(), prefix + name + ".", all);
    if (!value.isTensor() || !(type->is_parameter(slot) || type->is_buffer(slot))) continue;
    all.push_back({prefix + name, value.toTensor(), type->is_buffer(slot)});
  }
}

}  // namespace

std::vector<StateTensor> TorchScriptModel::state() const {
  std::vector<StateTensor> all;
  append_state(module_._ivalue(), "", all);
  return all;
}

std::vector<std::string> TorchScriptModel::input_names() const {
  std::vector<std::string> names;
  const auto forward = module_.find_method("forward");
  if (!forward) return names;
  const auto& arguments = forward->function().getSchema().arguments();
  for (std::size_t k = 1; k < arguments.size(); ++k) names.push_back(arguments[k].name());  // after self
  return names;
}

// Not jit::Module::to, which converts integer buffers, too. set_data keeps the identity of tensors, so that what is
// shared stays shared.
void TorchScriptModel::convert(torch::Dtype dtype, torch::Device device) {
  const torch::NoGradGuard no_grad;
  casts_ = Casts(dtypes_of_file_, dtype, casts_are_kept_);
  if (device != device_of_code_) {
    move_code(module_, device);
    move_device_attributes(module_, device);
    device_of_code_ = device;
  }
  c10::IValue(module_._ivalue()).visit([&](const c10::IValue& value) {
    if (!value.isTensor()) return false;
    const torch::Tensor& tensor = value.toTensor();
    if (!tensor.defined()) return false;
    const auto of_file = dtype_of_file_.find(tensor.unsafeGetTensorImpl());
    const auto own = of_file == dtype_of_file_.end() ? tensor.scalar_type() : of_file->second;
    const auto wanted = tensor.is_floating_point() ? casts_.of_state(own) : tensor.scalar_type();
    if (tensor.scalar_type() != wanted || tensor.device() != device) {
      tensor.set_data(tensor.detach().to(device, wanted));
    }
    return false;
  });
}

void TorchScriptModel::set_mode(Mode mode) {
  if (const auto fixed = fixed_mode(module_); fixed && *fixed != mode) {
    throw InputError(text("the TorchScript module was traced or frozen in ", name_of(*fixed),
                          " mode, which is part of its "
                          "code: use --mode ",
                          name_of(*fixed), ", or put the module in ", name_of(mode),
                          " mode before torch.jit.trace, or use torch.jit.script"));
  }
  module_.train(mode == Mode::train);
}

c10::IValue TorchScriptModel::forward(const std::vector<c10::IValue>& arguments) {
  const BorrowedState state(module_);
  const auto before = parameters();
  const auto versions = versions_of(before);
  const CastsInEffect casts(casts_);
  WidenedCasts::note(state_of_file_, casts_);
  c10::IValue result = module_.forward(copies_of(arguments));
  const auto now = versions_of(before);
  for (std::size_t p = 0; p < before.size(); ++p) {
    if (now[p] == versions[p]) continue;
    throw InputError(text("the TorchScript module changes its parameter '", printable(before[p].name),
                          "' in forward(), so it has no derivative with respect to it"));
  }
  return result;
}

std::unique_ptr<TorchScriptModel> load_torchscript(const std::filesystem::path& file) {
  try {
    return std::make_unique<TorchScriptModel>(checked_module(file));
  } catch (const InputError& error) {
    throw InputError(text("the TorchScript module '", file.string(), "' ", error.what()));
  } catch (const std::exception& error) {
    throw InputError(
        text("'", file.string(), "' is no TorchScript module (torch.jit.save), or it is damaged: ", message_of(error)));
  }
}

// The two modes together choose the executor that runs the code as written. torch::jit::setGraphExecutorOptimize would
// not do: it holds for the calling thread only.
UnoptimisedTorchScript::UnoptimisedTorchScript()
    : executor_(torch::jit::getExecutorMode().exchange(true)),
      profiling_(torch::jit::getProfilingMode().exchange(false)),
      print_(torch::jit::getPrintHandler()) {
  // What a network prints, it would print on every rank in every forward.
  torch::jit::setPrintHandler([](const std::string&) {});
}

UnoptimisedTorchScript::~UnoptimisedTorchScript() {
  torch::jit::setPrintHandler(print_);
  torch::jit::getProfilingMode() = profiling_;
  torch::jit::getExecutorMode() = executor_;
}

}  // namespace hessian_mpi::network
