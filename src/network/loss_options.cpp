#include "hessian_mpi/network/loss_options.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <variant>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

using torch::Tensor;

constexpr double infinity = std::numeric_limits<double>::infinity();

// The one value of `reduction` that is not the program's own --reduction.
struct BatchMean {};

struct Argument {
  const char* name;
  const char* wanted;  // for messages
  std::variant<Tensor LossArguments::*, std::int64_t LossArguments::*, double LossArguments::*,
               std::optional<double> LossArguments::*, bool LossArguments::*, BatchMean>
      place;
  double least = -infinity;  // of a number
  double most = infinity;
};

constexpr const char* wanted_of_tensor = "numbers separated by commas, such as 1,2,0.5, or @FILE with such numbers";
constexpr const char* wanted_of_flag = "true or false";
constexpr double smallest = std::numeric_limits<double>::denorm_min();

constexpr Argument arguments_of_losses[] = {
    {"weight", wanted_of_tensor, &LossArguments::weight},
    {"pos_weight", wanted_of_tensor, &LossArguments::pos_weight},
    {"ignore_index", "a whole number", &LossArguments::ignore_index},
    {"label_smoothing", "a number from 0 to 1", &LossArguments::label_smoothing, 0, 1},
    {"beta", "a number of at least 0", &LossArguments::beta, 0},
    {"delta", "a number above 0", &LossArguments::delta, smallest},
    {"eps", "a number of at least 0", &LossArguments::eps, 0},
    {"margin", "a number", &LossArguments::margin},
    {"p", "a number above 0", &LossArguments::p, smallest},
    {"swap", wanted_of_flag, &LossArguments::swap},
    {"log_target", wanted_of_flag, &LossArguments::log_target},
    {"log_input", wanted_of_flag, &LossArguments::log_input},
    {"full", wanted_of_flag, &LossArguments::full},
    {"reduction", "batchmean (mean and sum: --reduction)", BatchMean()},
};

const Argument* find_argument(const std::string& name) {
  const auto* found = std::find_if(std::begin(arguments_of_losses), std::end(arguments_of_losses),
                                   [&](const Argument& a) { return name == a.name; });
  return found == std::end(arguments_of_losses) ? nullptr : found;
}

template <class Number>
std::optional<Number> number_in(std::string_view word) {
  Number number{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return number;
}

// Words between commas or white space; an empty one where two commas follow each other.
std::vector<std::string> split_numbers(const std::string& value) {
  std::vector<std::string> words;
  std::istringstream parts(value);
  for (std::string part; std::getline(parts, part, ',');) {
    std::istringstream in(part);
    const auto before = words.size();
    for (std::string word; in >> word;) words.push_back(word);
    if (words.size() == before) words.emplace_back();
  }
  return words;
}

std::string content_of(const std::string& file) {
  constexpr std::uintmax_t most_bytes = 256 << 20;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) throw InputError(text("'", file, "' is not a file"));
  if (std::filesystem::file_size(file, ignored) > most_bytes) {
    throw InputError(text("'", file, "' has more than ", most_bytes >> 20, " MiB"));
  }
  std::ifstream in(file, std::ios::binary);
  std::ostringstream content;
  if (!in || !(content << in.rdbuf())) throw InputError(text("'", file, "' cannot be read, or it is empty"));
  return content.str();
}

// Sets arguments from words and says what is wrong with them.
class Reader {
 public:
  explicit Reader(std::string word) : word_(std::move(word)) {
    const auto at = word_.find('=');
    if (at == std::string::npos || at == 0) throw wrong("is not NAME=VALUE");
    name_ = word_.substr(0, at);
    value_ = word_.substr(at + 1);
  }

  const std::string& name() const { return name_; }
  InputError wrong(const std::string& how) const {
    return InputError(text("--loss-option '", printable(word_), "' ", how));
  }

  void set(const Argument& argument, LossArguments& all) const {
    std::visit([&](const auto& place) { set(argument, place, all); }, argument.place);
  }

 private:
  InputError unwanted(const Argument& argument, const std::string& what) const {
    return wrong(text(what, ": ", name_, " takes ", argument.wanted));
  }

  double number(const Argument& argument, const std::string& word) const {
    const auto found = number_in<double>(word);
    if (!found || !std::isfinite(*found))
      throw unwanted(argument, text("has '", printable(word), "', which is not a number"));
    if (*found < argument.least || *found > argument.most) throw unwanted(argument, "is out of its range");
    return *found;
  }

  void set(const Argument& argument, Tensor LossArguments::*place, LossArguments& all) const {
    std::string content = value_;
    try {
      if (value_.starts_with('@')) content = content_of(value_.substr(1));
    } catch (const InputError& error) {
      throw unwanted(argument, text("names a file: ", error.what()));
    }
    std::vector<double> numbers;
    for (const auto& word : split_numbers(content)) numbers.push_back(number(argument, word));
    if (numbers.empty()) throw unwanted(argument, "has no numbers");
    all.*place = torch::tensor(numbers, torch::kFloat64);
  }
  void set(const Argument& argument, std::int64_t LossArguments::*place, LossArguments& all) const {
    const auto found = number_in<std::int64_t>(value_);
    if (!found) throw unwanted(argument, text("has '", printable(value_), "', which is not a whole number"));
    all.*place = *found;
  }
  void set(const Argument& argument, double LossArguments::*place, LossArguments& all) const {
    all.*place = number(argument, value_);
  }
  void set(const Argument& argument, std::optional<double> LossArguments::*place, LossArguments& all) const {
    all.*place = number(argument, value_);
  }
  void set(const Argument& argument, bool LossArguments::*place, LossArguments& all) const {
    const bool yes = value_ == "true" || value_ == "True" || value_ == "1";
    const bool no = value_ == "false" || value_ == "False" || value_ == "0";
    if (!yes && !no) throw unwanted(argument, text("has '", printable(value_), "'"));
    all.*place = yes;
  }
  void set(const Argument& argument, BatchMean, LossArguments& all) const {
    if (value_ != "batchmean") throw unwanted(argument, text("has '", printable(value_), "'"));
    all.batchmean = true;
  }

  std::string word_;
  std::string name_;
  std::string value_;
};

// The shortest text that reads back as the same number.
std::string text_of_number(double number) {
  char digits[32];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), number).ptr;
  return {std::begin(digits), end};
}

std::string text_of_value(const Tensor& numbers) {
  constexpr std::int64_t most = 64;
  const auto* values = numbers.const_data_ptr<double>();
  const auto count = numbers.numel();
  if (count > most) {
    const auto sum = xxh3(values, static_cast<std::size_t>(count) * sizeof(double));
    std::ostringstream hexadecimal;
    hexadecimal << std::hex << std::setfill('0') << std::setw(16) << sum;
    return text("(", count, " numbers, XXH3 ", hexadecimal.str(), ")");
  }
  std::string result;
  for (std::int64_t k = 0; k < count; ++k) result.append(k == 0 ? "" : ",").append(text_of_number(values[k]));
  return result;
}
std::string text_of_value(std::int64_t number) {
  return text(number);
}
std::string text_of_value(double number) {
  return text_of_number(number);
}
std::string text_of_value(const std::optional<double>& number) {
  return text_of_number(number.value());
}
std::string text_of_value(bool flag) {
  return flag ? "true" : "false";
}

std::string text_of_value(const Argument& argument, const LossArguments& all) {
  if (std::holds_alternative<BatchMean>(argument.place)) return "batchmean";
  std::string result;
  std::visit(
      [&](const auto& place) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(place)>, BatchMean>) result = text_of_value(all.*place);
      },
      argument.place);
  return result;
}

std::vector<Reader> readers_of(const std::vector<std::string>& words) {
  std::vector<Reader> readers;
  for (const auto& word : words) {
    Reader reader(word);
    const auto same = [&](const Reader& other) { return other.name() == reader.name(); };
    if (std::any_of(readers.begin(), readers.end(), same)) throw reader.wrong(text("gives ", reader.name(), " again"));
    readers.push_back(std::move(reader));
  }
  return readers;
}

}  // namespace

LossArguments loss_arguments(const std::string& loss, const std::vector<std::string>& known,
                             const std::vector<std::string>& words) {
  LossArguments all;
  for (const auto& reader : readers_of(words)) {
    const auto* argument = find_argument(reader.name());
    if (argument == nullptr || std::find(known.begin(), known.end(), reader.name()) == known.end()) {
      throw reader.wrong(text("is no option of the loss '", loss, "', which has ", joined(known, ", ")));
    }
    reader.set(*argument, all);
  }
  return all;
}

std::string text_of_loss_options(const std::vector<std::string>& words) {
  std::map<std::string, std::string> values;
  for (const auto& reader : readers_of(words)) {
    const auto* argument = find_argument(reader.name());
    if (argument == nullptr) throw reader.wrong("is an option of no loss");
    LossArguments all;
    reader.set(*argument, all);
    values.emplace(reader.name(), text_of_value(*argument, all));
  }
  std::string result;
  for (const auto& [name, value] : values) result += text(result.empty() ? "" : " ", name, '=', value);
  return result;
}

}  // namespace hessian_mpi::network
