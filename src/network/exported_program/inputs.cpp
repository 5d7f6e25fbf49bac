#include "exported_program/inputs.hpp"

#include <ATen/ATen.h>

#include <regex>
#include <stdexcept>

#include "exported_name.hpp"
#include "exported_program/archive.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

using nlohmann::json;

// Sizes are numbers or expressions such as "Symbol('s77', positive=True, integer=True)" or "Mul(Integer(2), ...)".
std::string symbol_from(const std::string& expression) {
  static const std::regex symbol(R"(Symbol\('(\w{1,64})'[^()]*\)|([A-Za-z_]\w{0,63}))");
  std::smatch match;
  if (expression.size() > 200 || !std::regex_match(expression, match, symbol)) return {};
  return match[1].matched ? match[1].str() : match[2].str();
}

Extent extent_from(const json& size) {
  if (size.contains("as_int")) return {integer_from(size.at("as_int")), {}};
  return {std::nullopt, symbol_from(size.at("as_expr").at("expr_str").get<std::string>())};
}

std::string shape_text(const std::vector<Extent>& shape) {
  std::string joined;
  for (const Extent& extent : shape) {
    joined += (joined.empty() ? "" : ", ") + (extent.fixed ? std::to_string(*extent.fixed) : std::string("any"));
  }
  return "[" + joined + "]";
}

std::string describe(const ExpectedInput& input) {
  switch (input.kind) {
    case ExpectedInput::Kind::integer:
      return text("'", input.name, "' (an integer)");
    case ExpectedInput::Kind::real:
      return text("'", input.name, "' (a number)");
    case ExpectedInput::Kind::tensor:
      break;
  }
  return text("'", input.name, "' (", c10::toString(input.dtype), " ", shape_text(input.shape), ")");
}

// Data hold a number for each sample; where a network takes one for all, they must be the same. Otherwise undefined.
at::Tensor the_one_number(const at::Tensor& given) {
  if (given.numel() == 0) return {};
  const at::Tensor first = given.reshape(-1)[0];
  return given.eq(first).all().item<bool>() ? first : at::Tensor{};
}

c10::IValue checked_number(const ExpectedInput& input, const c10::IValue& given) {
  const bool integer = input.kind == ExpectedInput::Kind::integer;
  if (given.isTensor() && the_one_number(given.toTensor()).defined()) {
    const at::Scalar number = the_one_number(given.toTensor()).item();
    if (integer && number.isIntegral(/*includeBool=*/true)) return number.toLong();
    if (!integer && !number.isComplex()) return number.toDouble();
  }
  if (given.isInt()) return integer ? given : c10::IValue(static_cast<double>(given.toInt()));
  if (given.isDouble() && !integer) return given;
  throw InputError(
      text("input '", input.name, "' must be ", integer ? "an integer" : "a number", ", the same for all samples"));
}

bool is_real(torch::Dtype dtype) {
  return at::isFloatingType(dtype) || at::isComplexType(dtype);
}

}  // namespace

void ExpectedInputs::add_tensor(const std::string& name, const json& meta) {
  ExpectedInput input{printable(name), ExpectedInput::Kind::tensor, dtype_from(meta.at("dtype")), {}};
  for (const json& size : meta.at("sizes")) input.shape.push_back(extent_from(size));
  add(std::move(input));
}

void ExpectedInputs::add(ExpectedInput input) {
  positions_.emplace_back(inputs_.size());
  inputs_.push_back(std::move(input));
}

void ExpectedInputs::add_number(const std::string& name, ExpectedInput::Kind kind) {
  add({printable(name), kind, torch::kFloat32, {}});
}

std::vector<std::string> ExpectedInputs::names() const {
  std::vector<std::string> names;
  for (const ExpectedInput& input : inputs_) names.push_back(input.name);
  return names;
}

std::vector<torch::Dtype> ExpectedInputs::dtypes() const {
  std::vector<torch::Dtype> dtypes;
  for (const ExpectedInput& input : inputs_) {
    if (input.kind == ExpectedInput::Kind::tensor && at::isFloatingType(input.dtype)) dtypes.push_back(input.dtype);
  }
  return dtypes;
}

void ExpectedInputs::set_ranges(const json& constraints) {
  for (const auto& [symbol, bounds] : constraints.items()) {
    Range range;
    // torch.export writes 2 where it means 'not fixed to 0 or 1'; PyTorch itself then takes 0 and 1 too.
    const json& least = bounds.at("min_val");
    if (!least.is_null() && integer_from(least) > 2) range.least = integer_from(least);
    if (!bounds.at("max_val").is_null()) range.most = integer_from(bounds.at("max_val"));
    ranges_[symbol] = range;
  }
}

// torch.export joins the path to an input in nested arguments: d['Z'][0] is the input "d_z_0". Where that name is
// taken, a number goes behind it, and no name tells what is meant any more. With strict=True, all are numbered:
// flat_args[2].
std::optional<std::size_t> ExpectedInputs::find(const std::vector<std::string>& path) const {
  if (path.size() == 2 && path[0] == "flat_args") {
    for (std::size_t i = 0; i < positions_.size(); ++i) {
      if (std::to_string(i) == path[1]) return positions_[i];
    }
    return std::nullopt;
  }
  std::string wanted;
  for (const std::string& part : path) wanted += (wanted.empty() ? "" : "_") + part;
  wanted = exported_name(wanted);
  std::optional<std::size_t> found;
  static const std::regex numbered("_[0-9]+");
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const std::string& name = inputs_[i].name;
    if (name == wanted) found = i;
    if (name.starts_with(wanted) && std::regex_match(name.substr(wanted.size()), numbered)) return std::nullopt;
  }
  return found;
}

void ExpectedInputs::set_guards(const json& guards) {
  for (const json& guard : guards) {
    const std::string code = guard.get<std::string>();
    try {
      guards_.emplace_back(code, [this](const auto& path) { return find(path); });
    } catch (const std::invalid_argument& error) {
      throw InputError(text("was exported for inputs with ", printable(code),
                            ", a condition that this program cannot check (", error.what(),
                            "); export it without dynamic_shapes, for the sizes of the data"));
    }
  }
}

void ExpectedInputs::check_guards(const std::vector<c10::IValue>& values) const {
  for (const Guard& guard : guards_) {
    bool holds = false;
    try {
      holds = guard.holds(values);
    } catch (const std::exception&) {
      // A condition that makes no sense for these inputs is one that they do not meet.
    }
    if (holds) continue;
    throw InputError(text("was exported for inputs with ", printable(guard.code()),
                          ", which these are not: with their sizes, forward() may take another way. Export it with an "
                          "example of these sizes"));
  }
}

std::vector<c10::IValue> ExpectedInputs::checked(const std::vector<c10::IValue>& arguments) const {
  if (arguments.size() != inputs_.size()) {
    throw InputError(text(
        "takes ", description(), " but was given ", arguments.size(),
        "; the order of the inputs in the data is that of forward(), unless they have the names of its arguments"));
  }
  std::vector<c10::IValue> values;
  std::map<std::string, std::int64_t> symbols;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (inputs_[i].kind != ExpectedInput::Kind::tensor) {
      values.push_back(checked_number(inputs_[i], arguments[i]));
      continue;
    }
    if (!arguments[i].isTensor()) throw InputError(text("input ", describe(inputs_[i]), " must be a tensor"));
    at::Tensor given = arguments[i].toTensor();
    if (inputs_[i].shape.empty() && given.dim() == 1 && the_one_number(given).defined()) given = the_one_number(given);
    check_tensor(inputs_[i], given, symbols);
    values.emplace_back(given);
  }
  check_guards(values);
  return values;
}

void ExpectedInputs::check_tensor(const ExpectedInput& input, const torch::Tensor& given,
                                  std::map<std::string, std::int64_t>& symbols) const {
  const auto mismatch = [&](const std::string& advice) {
    return InputError(
        text("takes ", describe(input), " but was given ", given.scalar_type(), " ", given.sizes(), advice));
  };
  if (is_real(input.dtype) != is_real(given.scalar_type())) {
    throw mismatch("; floating and integer data are not exchanged");
  }
  if (given.dim() != static_cast<std::int64_t>(input.shape.size())) throw mismatch("");
  for (std::int64_t d = 0; d < given.dim(); ++d) {
    const Extent& expected = input.shape[static_cast<std::size_t>(d)];
    const std::int64_t extent = given.size(d);
    if (expected.fixed && *expected.fixed != extent) throw mismatch(d == 0 ? batch_advice() : std::string{});
    if (expected.symbol.empty()) continue;
    const auto [first, is_new] = symbols.emplace(expected.symbol, extent);
    if (!is_new && first->second != extent) {
      throw mismatch(text("; dimension ", d, " must be ", first->second, " as in the other inputs or dimensions"));
    }
    const auto range = ranges_.find(expected.symbol);
    if (range == ranges_.end()) continue;
    if (extent < range->second.least || extent > range->second.most.value_or(extent)) {
      throw mismatch(text("; it was exported for ", range->second.least, " to ",
                          range->second.most ? std::to_string(*range->second.most) : "any", " in dimension ", d));
    }
  }
}

std::string ExpectedInputs::description() const {
  std::string joined;
  for (const ExpectedInput& input : inputs_) joined += (joined.empty() ? "" : ", ") + describe(input);
  return text(inputs_.size(), inputs_.size() == 1 ? " input: " : inputs_.empty() ? " inputs" : " inputs: ", joined);
}

std::string ExpectedInputs::batch_advice() const {
  std::string shapes;
  std::optional<std::int64_t> batch;
  for (const ExpectedInput& input : inputs_) {
    if (input.kind != ExpectedInput::Kind::tensor || input.shape.empty()) continue;
    shapes += text(shapes.empty() ? "" : ", ", "'", input.name, "': {0: torch.export.Dim.DYNAMIC}");
    if (!batch) batch = input.shape[0].fixed;
  }
  return text(
      "; the number of samples was fixed at export. Export it with torch.export.export(model, args, dynamic_shapes={",
      shapes, "})", batch ? text(", or use --batch-size ", *batch, " with a multiple of ", *batch, " samples") : "");
}

}  // namespace hessian_mpi::network
