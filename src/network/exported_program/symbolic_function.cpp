#include "exported_program/symbolic_function.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>

namespace hessian_mpi::network {
namespace {

using c10::IValue;
using Arguments = std::vector<IValue>;

const IValue& at(const Arguments& arguments, std::size_t index) {
  if (index >= arguments.size()) throw std::domain_error("too few arguments");
  return arguments[index];
}

// bool counts as an integer, as in Python.
bool is_integer(const IValue& value) {
  return value.isInt() || value.isBool();
}

std::int64_t integer(const IValue& value) {
  if (value.isBool()) return value.toBool() ? 1 : 0;
  if (value.isInt()) return value.toInt();
  throw std::domain_error("not an integer");
}

double real(const IValue& value) {
  return value.isDouble() ? value.toDouble() : static_cast<double>(integer(value));
}

bool truth(const IValue& value) {
  return real(value) != 0.0;
}

IValue whole(double value) {
  constexpr double limit = 9.2e18;
  if (!(std::abs(value) < limit)) throw std::domain_error("result beyond 64 bits");
  return static_cast<std::int64_t>(value);
}

template <class Integers, class Reals>
IValue arithmetic(const Arguments& arguments, Integers integers, Reals reals) {
  const IValue &a = at(arguments, 0), &b = at(arguments, 1);
  if (!is_integer(a) || !is_integer(b)) return reals(real(a), real(b));
  std::int64_t result = 0;
  if (integers(integer(a), integer(b), &result)) throw std::domain_error("result beyond 64 bits");
  return result;
}

IValue add(const Arguments& arguments) {
  return arithmetic(
      arguments, [](auto a, auto b, auto* sum) { return __builtin_add_overflow(a, b, sum); },
      [](double a, double b) { return a + b; });
}

IValue subtract(const Arguments& arguments) {
  return arithmetic(
      arguments, [](auto a, auto b, auto* difference) { return __builtin_sub_overflow(a, b, difference); },
      [](double a, double b) { return a - b; });
}

IValue multiply(const Arguments& arguments) {
  return arithmetic(
      arguments, [](auto a, auto b, auto* product) { return __builtin_mul_overflow(a, b, product); },
      [](double a, double b) { return a * b; });
}

// Quotient rounded down; true if it cannot be represented.
bool floor_quotient(std::int64_t a, std::int64_t b, std::int64_t* quotient) {
  if (b == 0) throw std::domain_error("division by zero");
  if (b == -1) return __builtin_sub_overflow(std::int64_t{0}, a, quotient);
  *quotient = a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
  return false;
}

IValue floor_divide(const Arguments& arguments) {
  return arithmetic(arguments, floor_quotient, [](double a, double b) { return std::floor(a / b); });
}

IValue remainder(const Arguments& arguments) {
  return arithmetic(
      arguments,
      [](std::int64_t a, std::int64_t b, std::int64_t* rest) {
        if (b == 0) throw std::domain_error("division by zero");
        *rest = b == -1 ? 0 : ((a % b) + b) % b;
        return false;
      },
      [](double a, double b) { return a - b * std::floor(a / b); });
}

IValue true_divide(const Arguments& arguments) {
  if (real(at(arguments, 1)) == 0.0) throw std::domain_error("division by zero");
  return real(at(arguments, 0)) / real(at(arguments, 1));
}

IValue power(const Arguments& arguments) {
  const IValue &base = at(arguments, 0), &exponent = at(arguments, 1);
  const double value = std::pow(real(base), real(exponent));
  // Exact as long as a double holds the result; sizes beyond 2^53 do not occur.
  return is_integer(base) && is_integer(exponent) && integer(exponent) >= 0 ? whole(value) : IValue(value);
}

template <class Compare>
IValue compare(const Arguments& arguments, Compare holds) {
  const IValue &a = at(arguments, 0), &b = at(arguments, 1);
  if (is_integer(a) && is_integer(b)) return holds(integer(a), integer(b));
  return holds(real(a), real(b));
}

IValue larger(const Arguments& arguments) {
  return real(at(arguments, 0)) >= real(at(arguments, 1)) ? at(arguments, 0) : at(arguments, 1);
}

IValue smaller(const Arguments& arguments) {
  return real(at(arguments, 0)) <= real(at(arguments, 1)) ? at(arguments, 0) : at(arguments, 1);
}

IValue negative(const Arguments& arguments) {
  return is_integer(at(arguments, 0)) ? subtract({std::int64_t{0}, at(arguments, 0)}) : IValue(-real(at(arguments, 0)));
}

template <class Round>
IValue rounded(const Arguments& arguments, Round round) {
  const IValue& a = at(arguments, 0);
  return is_integer(a) ? IValue(integer(a)) : whole(round(a.toDouble()));
}

IValue truncate(const Arguments& arguments) {
  return rounded(arguments, [](double a) { return std::trunc(a); });
}

IValue absolute(const Arguments& arguments) {
  return truth(compare({at(arguments, 0), std::int64_t{0}}, [](auto a, auto b) { return a < b; })) ? negative(arguments)
                                                                                                   : at(arguments, 0);
}

template <class Combine>
IValue combine(const Arguments& arguments, Combine combined) {
  const IValue &a = at(arguments, 0), &b = at(arguments, 1);
  const std::int64_t result = combined(integer(a), integer(b));
  return a.isBool() && b.isBool() ? IValue(result != 0) : IValue(result);
}

std::int64_t shift_width(const IValue& value) {
  const std::int64_t width = integer(value);
  if (width < 0 || width > 62) throw std::domain_error("shift out of range");
  return width;
}

IValue shift_left(const Arguments& arguments) {
  return multiply({at(arguments, 0), std::int64_t{1} << shift_width(at(arguments, 1))});
}

IValue shift_right(const Arguments& arguments) {
  return integer(at(arguments, 0)) >> shift_width(at(arguments, 1));
}

IValue square_root(const Arguments& arguments) {
  return std::sqrt(real(at(arguments, 0)));
}

// The operators that torch.export keeps for sizes (torch/_export/serde/serialize.py, _SYM_OPS) and those in its
// conditions on them, under the names that Python gives them.
constexpr std::pair<std::string_view, SymbolicFunction> symbolic_functions[] = {
    {"_operator.add", add},
    {"_operator.sub", subtract},
    {"_operator.mul", multiply},
    {"_operator.floordiv", floor_divide},
    {"_operator.mod", remainder},
    {"_operator.truediv", true_divide},
    {"_operator.pow", power},
    {"_operator.neg", negative},
    {"_operator.abs", absolute},
    {"_operator.pos", [](const Arguments& a) { return at(a, 0); }},
    {"_operator.eq", [](const Arguments& a) { return compare(a, [](auto x, auto y) { return x == y; }); }},
    {"_operator.ne", [](const Arguments& a) { return compare(a, [](auto x, auto y) { return x != y; }); }},
    {"_operator.lt", [](const Arguments& a) { return compare(a, [](auto x, auto y) { return x < y; }); }},
    {"_operator.le", [](const Arguments& a) { return compare(a, [](auto x, auto y) { return x <= y; }); }},
    {"_operator.gt", [](const Arguments& a) { return compare(a, [](auto x, auto y) { return x > y; }); }},
    {"_operator.ge", [](const Arguments& a) { return compare(a, [](auto x, auto y) { return x >= y; }); }},
    {"_operator.and_", [](const Arguments& a) { return combine(a, [](auto x, auto y) { return x & y; }); }},
    {"_operator.or_", [](const Arguments& a) { return combine(a, [](auto x, auto y) { return x | y; }); }},
    {"_operator.lshift", shift_left},
    {"_operator.rshift", shift_right},
    {"math.trunc", truncate},
    {"math.floor", [](const Arguments& a) { return rounded(a, [](double x) { return std::floor(x); }); }},
    {"math.ceil", [](const Arguments& a) { return rounded(a, [](double x) { return std::ceil(x); }); }},
    {"torch.sym_int", truncate},
    {"torch.sym_float", [](const Arguments& a) { return IValue(real(at(a, 0))); }},
    {"torch.sym_not", [](const Arguments& a) { return IValue(!truth(at(a, 0))); }},
    {"torch.sym_ite", [](const Arguments& a) { return truth(at(a, 0)) ? at(a, 1) : at(a, 2); }},
    {"torch.sym_max", larger},
    {"torch.sym_min", smaller},
    {"torch.sym_sqrt", square_root},
    {"torch._sym_sqrt", square_root},
};

}  // namespace

SymbolicFunction find_symbolic_function(std::string_view target) {
  for (const auto& [name, function] : symbolic_functions) {
    if (name == target) return function;
  }
  return nullptr;
}

}  // namespace hessian_mpi::network
