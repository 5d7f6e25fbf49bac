#include "hessian_mpi/file/same_job.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <string_view>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/lines.hpp"

namespace hessian_mpi::file {

std::string text_of(const Attributes::value_type::second_type& value) {
  if (const auto* number = std::get_if<double>(&value)) {
    std::array<char, 32> digits{};
    return {digits.data(), std::to_chars(digits.begin(), digits.end(), *number).ptr};
  }
  return std::visit([](const auto& x) { return text(x); }, value);
}

namespace {

using Value = Attributes::value_type::second_type;

const Value* find(const Attributes& attributes, const std::string& name) {
  const auto found = std::find_if(attributes.begin(), attributes.end(), [&](const auto& a) { return a.first == name; });
  return found == attributes.end() ? nullptr : &found->second;
}

std::string text_of(const Value* value) {
  if (value == nullptr) return "not";
  if (const auto* word = std::get_if<std::string>(value)) return word->empty() ? "none" : text('\'', *word, '\'');
  return file::text_of(*value);
}

class Comparison {
 public:
  explicit Comparison(const Sides& sides) : sides_(sides) {}

  void add_if_different(const std::string& what, const std::string& first, const std::string& second) {
    if (first == second) return;
    result.differences.push_back(text(what, ": ", first, ' ', sides_.first, ", ", second, ' ', sides_.second));
  }

  JobComparison result;

 private:
  const Sides& sides_;
};

// Those whose names are chosen.
template <class Chosen>
void compare_attributes(const Attributes& first, const Attributes& second, const Chosen& chosen,
                        Comparison& comparison) {
  for (const auto* name : deciding_attributes) {
    if (chosen(std::string_view(name)))
      comparison.add_if_different(name, text_of(find(first, name)), text_of(find(second, name)));
  }
}

bool names_input(std::string_view attribute) {
  return attribute.ends_with("_sha256") || attribute == "loss_options";  // some of which are files
}

// Of attributes that decide how numbers are made, and not which.
bool names_way(std::string_view attribute) {
  constexpr std::array ways{
      "batch_size",          "dtype",           "threads", "device", "matrix", "entries", "method", "accumulate",
      "hessian_mpi_version", "libtorch_version"};
  return std::find(ways.begin(), ways.end(), attribute) != ways.end();
}

std::string text_of_parameter(const matrix::ParameterIndex& index, std::size_t p) {
  if (p >= index.entries().size()) return "nothing";
  const auto& entry = index.entries()[p];
  return text(entry.name, ' ', matrix::text_of_shape(entry.shape));
}

void compare_parameters(const matrix::ParameterIndex& first, const matrix::ParameterIndex& second,
                        Comparison& comparison) {
  const auto count = std::max(first.entries().size(), second.entries().size());
  for (std::size_t p = 0; p < count && comparison.result.differences.empty(); ++p) {
    comparison.add_if_different(text("parameter ", p), text_of_parameter(first, p), text_of_parameter(second, p));
  }
}

// The numbers as a file of that precision keeps them.
std::vector<double> as_stored(std::vector<double> numbers, Precision precision) {
  if (precision == Precision::float64) return numbers;
  for (double& number : numbers) number = static_cast<float>(number);
  return numbers;
}

// Infinite where a number is none.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    const double here = std::abs(a[k] - b[k]);
    if (std::isnan(here)) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, here);
  }
  return difference;
}

double largest(const std::vector<double>& numbers) {
  double most = 0;
  for (const double number : numbers) most = std::max(most, std::abs(number));
  return most;
}

// Which way each parameter took, without the reasons, whose words may differ between versions: "fc.bias: rows".
std::string ways_of(const Attributes& attributes) {
  const auto* lines = find_attribute<std::string>(attributes, "parameter_methods");
  if (lines == nullptr) return "not";
  std::string ways;
  for (auto line : split_lines(*lines)) {
    constexpr std::string_view by_rows = ": rows, ";
    const auto reason = line.find(by_rows);
    if (reason != std::string::npos) line.resize(reason + by_rows.size() - 2);
    ways += (ways.empty() ? "" : "; ") + line;
  }
  return text('\'', ways, '\'');
}

// Both have the same number of parameters. Other processors add in another order; more than rounding means another
// function. At a minimum all of a gradient may be rounding, of parts that are a loss's.
void compare_values(const HessianLayout& first, const HessianLayout& second, Comparison& comparison) {
  auto& [differences, warnings] = comparison.result;
  const bool narrow = first.dtype == Precision::float32 || second.dtype == Precision::float32;
  const auto dtype = narrow ? Precision::float32 : Precision::float64;
  const double rounding = narrow ? 1e-3 : 1e-9;
  if (as_stored(first.value, dtype) != as_stored(second.value, dtype))
    differences.emplace_back("the values of the parameters");
  const auto* loss = find_attribute<double>(first.attributes, "loss_value");
  const auto* other = find_attribute<double>(second.attributes, "loss_value");
  const double scale = loss == nullptr || other == nullptr ? 0 : std::abs(*loss);
  const double least = narrow ? 1e-6 : 1e-14;  // a loss next to zero is all rounding
  if (scale > 0 && !(std::abs(*loss - *other) <= rounding * scale + least))
    comparison.add_if_different("the loss", text_of(find(first.attributes, "loss_value")),
                                text_of(find(second.attributes, "loss_value")));
  const auto gradient = as_stored(first.gradient, dtype);
  const double difference = largest_difference(gradient, as_stored(second.gradient, dtype));
  if (difference > rounding * largest(gradient) + least * scale) {
    differences.emplace_back("the gradient");
  } else if (difference > 0) {
    warnings.emplace_back("the gradients differ in their last digits (other kinds of processors?): so may rows");
  }
}

}  // namespace

JobComparison compare_jobs(const HessianLayout& first, const HessianLayout& second, const Sides& sides) {
  Comparison comparison(sides);
  compare_attributes(
      first.attributes, second.attributes, [](std::string_view) { return true; }, comparison);
  comparison.add_if_different("storage", name_of(first.matrix.storage), name_of(second.matrix.storage));
  compare_parameters(first.index, second.index, comparison);
  if (comparison.result.differences.empty()) {
    // Of the same parameters; which way each took follows from all else, but for the program's version.
    comparison.add_if_different("parameter_methods", ways_of(first.attributes), ways_of(second.attributes));
  }
  if (comparison.result.differences.empty()) compare_values(first, second, comparison);
  return comparison.result;
}

JobComparison compare_points(const HessianLayout& first, const HessianLayout& second, const Sides& sides) {
  Comparison comparison(sides);
  compare_parameters(first.index, second.index, comparison);
  if (!comparison.result.differences.empty()) return comparison.result;
  compare_values(first, second, comparison);
  if (comparison.result.differences.empty()) return comparison.result;
  compare_attributes(first.attributes, second.attributes, std::not_fn(names_way), comparison);
  return comparison.result;
}

std::vector<std::string> different_inputs(const Attributes& first, const Attributes& second, const Sides& sides) {
  Comparison comparison(sides);
  compare_attributes(first, second, names_input, comparison);
  return comparison.result.differences;
}

}  // namespace hessian_mpi::file
