#include "exported_program/guard.hpp"

#include <ATen/ATen.h>

#include <array>
#include <charconv>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>

#include "exported_program/symbolic_function.hpp"

namespace hessian_mpi::network {

using c10::IValue;

/// What a property of an input is: itself, or one of its sizes or strides.
struct InputProperty {
  enum class Kind { value, size, stride, storage_offset };
  std::size_t input = 0;
  Kind kind = Kind::value;
  std::int64_t dimension = 0;
};

struct Guard::Expression {
  std::variant<IValue, InputProperty, SymbolicFunction> head;
  std::vector<Expression> arguments;  ///< of a function
};

namespace {

using Expression = Guard::Expression;

constexpr std::size_t longest_guard = 20000;
constexpr int deepest_nesting = 100;

struct Operation {
  std::string_view sign;
  std::string_view function;
};
constexpr std::array comparisons = {Operation{"==", "_operator.eq"}, Operation{"!=", "_operator.ne"},
                                    Operation{"<=", "_operator.le"}, Operation{">=", "_operator.ge"},
                                    Operation{"<", "_operator.lt"},  Operation{">", "_operator.gt"}};
constexpr std::array sums = {Operation{"+", "_operator.add"}, Operation{"-", "_operator.sub"}};
constexpr std::array products = {Operation{"//", "_operator.floordiv"}, Operation{"/", "_operator.truediv"},
                                 Operation{"%", "_operator.mod"}, Operation{"*", "_operator.mul"}};
// Functions by the names that they have in such conditions.
constexpr std::array functions = {Operation{"max", "torch.sym_max"},       Operation{"min", "torch.sym_min"},
                                  Operation{"abs", "_operator.abs"},       Operation{"int", "math.trunc"},
                                  Operation{"float", "torch.sym_float"},   Operation{"math.trunc", "math.trunc"},
                                  Operation{"math.floor", "math.floor"},   Operation{"math.ceil", "math.ceil"},
                                  Operation{"math.sqrt", "torch.sym_sqrt"}};

[[noreturn]] void not_understood(const std::string& what) {
  throw std::invalid_argument(what);
}

Expression applied(std::string_view function, std::vector<Expression> arguments) {
  const SymbolicFunction found = find_symbolic_function(function);
  if (found == nullptr) not_understood("unknown function " + std::string(function));
  return {found, std::move(arguments)};
}

Expression applied(std::string_view function, Expression a) {
  std::vector<Expression> arguments;
  arguments.push_back(std::move(a));
  return applied(function, std::move(arguments));
}

Expression applied(std::string_view function, Expression a, Expression b) {
  std::vector<Expression> arguments;
  arguments.push_back(std::move(a));
  arguments.push_back(std::move(b));
  return applied(function, std::move(arguments));
}

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/// Python's grammar of expressions, as far as sizes need it: one function for each level of precedence.
class Parser {
 public:
  Parser(std::string_view code, const Guard::FindInput& find_input) : rest_(code), find_input_(find_input) {}

  Expression whole() {
    Expression result = either();
    skip_spaces();
    if (!rest_.empty()) not_understood("ends in " + std::string(rest_));
    return result;
  }

 private:
  void skip_spaces() {
    while (!rest_.empty() && rest_.front() == ' ') rest_.remove_prefix(1);
  }
  bool take(std::string_view sign) {
    skip_spaces();
    if (!rest_.starts_with(sign)) return false;
    if (is_word(sign.back()) && rest_.size() > sign.size() && is_word(rest_[sign.size()])) return false;
    rest_.remove_prefix(sign.size());
    return true;
  }
  void expect(std::string_view sign) {
    if (!take(sign)) not_understood("no " + std::string(sign) + " before " + std::string(rest_));
  }
  template <class Operations>
  std::string_view take_one_of(const Operations& operations) {
    for (const Operation& operation : operations) {
      if (take(operation.sign)) return operation.function;
    }
    return {};
  }

  Expression either() {
    if (++nesting_ > deepest_nesting) not_understood("nests too deeply");
    Expression result = both();
    while (take("or")) result = applied("_operator.or_", std::move(result), both());
    --nesting_;
    return result;
  }
  Expression both() {
    Expression result = negation();
    while (take("and")) result = applied("_operator.and_", std::move(result), negation());
    return result;
  }
  Expression negation() {
    bool negated = false;
    while (take("not")) negated = !negated;
    Expression result = comparison();
    if (!negated) return result;
    return applied("torch.sym_not", std::move(result));
  }
  // a < b < c means a < b and b < c.
  Expression comparison() {
    Expression left = sum();
    std::vector<Expression> pairs;
    for (auto function = take_one_of(comparisons); !function.empty(); function = take_one_of(comparisons)) {
      Expression right = sum();
      pairs.push_back(applied(function, std::move(left), Expression(right)));
      left = std::move(right);
    }
    if (pairs.empty()) return left;
    Expression result = std::move(pairs.front());
    for (std::size_t k = 1; k < pairs.size(); ++k) {
      result = applied("_operator.and_", std::move(result), std::move(pairs[k]));
    }
    return result;
  }
  Expression sum() {
    Expression result = product();
    for (auto function = take_one_of(sums); !function.empty(); function = take_one_of(sums)) {
      result = applied(function, std::move(result), product());
    }
    return result;
  }
  Expression product() {
    Expression result = signed_power();
    for (auto function = take_one_of(products); !function.empty(); function = take_one_of(products)) {
      result = applied(function, std::move(result), signed_power());
    }
    return result;
  }
  // -a ** b means -(a ** b).
  Expression signed_power() {
    bool negative = false;
    while (take("-")) negative = !negative;
    Expression result = power();
    if (!negative) return result;
    return applied("_operator.neg", std::move(result));
  }
  Expression power() {
    if (++nesting_ > deepest_nesting) not_understood("nests too deeply");
    Expression base = atom();
    if (take("**")) base = applied("_operator.pow", std::move(base), signed_power());
    --nesting_;
    return base;
  }
  Expression atom() {
    if (take("(")) {
      Expression inner = either();
      expect(")");
      return inner;
    }
    skip_spaces();
    if (take("L[")) return input();
    if (!rest_.empty() && (is_digit(rest_.front()) || rest_.front() == '.')) return number();
    return call();
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  std::int64_t integer() {
    skip_spaces();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) not_understood("no integer before " + std::string(rest_));
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return value;
  }
  Expression number() {
    const std::size_t digits = rest_.find_first_not_of("0123456789");
    if (digits == std::string_view::npos || (rest_[digits] != '.' && rest_[digits] != 'e'))
      return {IValue(integer()), {}};
    double value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) not_understood("no number before " + std::string(rest_));
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return {IValue(value), {}};
  }
  Expression call() {
    std::size_t length = 0;
    while (length < rest_.size() && (is_word(rest_[length]) || rest_[length] == '.')) ++length;
    std::string_view name = rest_.substr(0, length);
    rest_.remove_prefix(length);
    if (name == "True" || name == "False") return {IValue(name == "True"), {}};
    for (const auto& [sign, function] : functions) {
      if (sign == name) name = function;
    }
    expect("(");
    std::vector<Expression> arguments;
    do arguments.push_back(either());
    while (take(","));
    expect(")");
    // Of two, here; Python takes any number.
    while (arguments.size() > 2 && (name == "torch.sym_max" || name == "torch.sym_min")) {
      Expression last = std::move(arguments.back());
      arguments.pop_back();
      arguments.back() = applied(name, std::move(arguments.back()), std::move(last));
    }
    return applied(name, std::move(arguments));
  }

  // 'x'] or 0], behind the opening bracket.
  std::string key() {
    skip_spaces();
    if (rest_.empty() || (rest_.front() != '\'' && rest_.front() != '"')) {
      const std::int64_t index = integer();
      expect("]");
      return std::to_string(index);
    }
    const std::size_t end = rest_.find(rest_.front(), 1);
    if (end == std::string_view::npos) not_understood("a text without an end");
    std::string result(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    expect("]");
    return result;
  }
  Expression input() {
    std::vector<std::string> path{key()};
    while (take("[")) path.push_back(key());
    const auto found = find_input_(path);
    if (!found) not_understood("no input of the name " + path.front());
    InputProperty property{*found, InputProperty::Kind::value, 0};
    if (take(".size()[")) {
      property.kind = InputProperty::Kind::size;
    } else if (take(".stride()[")) {
      property.kind = InputProperty::Kind::stride;
    } else if (take(".storage_offset()")) {
      property.kind = InputProperty::Kind::storage_offset;
      return {property, {}};
    } else {
      return {property, {}};
    }
    property.dimension = integer();
    expect("]");
    return {property, {}};
  }

  std::string_view rest_;
  const Guard::FindInput& find_input_;
  int nesting_ = 0;
};

IValue value_of(const InputProperty& property, const std::vector<IValue>& inputs) {
  const IValue& input = inputs.at(property.input);
  if (property.kind == InputProperty::Kind::value) return input;
  if (!input.isTensor()) throw std::invalid_argument("asks for the size of a number");
  const at::Tensor& tensor = input.toTensor();
  switch (property.kind) {
    case InputProperty::Kind::size:
      return tensor.size(property.dimension);
    case InputProperty::Kind::stride:
      return tensor.stride(property.dimension);
    default:
      return tensor.storage_offset();
  }
}

// `a or b` looks at b only where a is false, and b may make no sense elsewhere.
bool decides(SymbolicFunction function, const IValue& first) {
  static const SymbolicFunction both = find_symbolic_function("_operator.and_"),
                                either = find_symbolic_function("_operator.or_");
  return first.isBool() && ((function == either && first.toBool()) || (function == both && !first.toBool()));
}

IValue value_of(const Expression& expression, const std::vector<IValue>& inputs) {
  if (const auto* constant = std::get_if<IValue>(&expression.head)) return *constant;
  if (const auto* property = std::get_if<InputProperty>(&expression.head)) return value_of(*property, inputs);
  const SymbolicFunction function = std::get<SymbolicFunction>(expression.head);
  std::vector<IValue> arguments;
  for (const Expression& argument : expression.arguments) {
    arguments.push_back(value_of(argument, inputs));
    if (decides(function, arguments.front())) return arguments.front();
  }
  return function(arguments);
}

}  // namespace

Guard::Guard(std::string code, const FindInput& find_input) : code_(std::move(code)) {
  if (code_.size() > longest_guard) not_understood("is too long");
  expression_ = std::make_unique<Expression>(Parser(code_, find_input).whole());
}

Guard::~Guard() = default;
Guard::Guard(Guard&&) noexcept = default;
Guard& Guard::operator=(Guard&&) noexcept = default;

bool Guard::holds(const std::vector<IValue>& inputs) const {
  const IValue value = value_of(*expression_, inputs);
  if (!value.isBool()) throw std::invalid_argument("is neither true nor false");
  return value.toBool();
}

}  // namespace hessian_mpi::network
