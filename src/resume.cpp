#include "hessian_mpi/resume.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "hessian_mpi/error.hpp"

namespace hessian_mpi {
namespace {

// Attributes that decide numbers. Not among them: names of files, whose contents have checksums, and the number of
// ranks.
constexpr std::array deciding_attributes{
    "model_sha256",    "data_sha256", "loss",  "loss_sha256", "reduction", "mode",   "batch_size",
    "samples",         "seed",        "dtype", "threads",     "device",    "method", "hessian_mpi_version",
    "libtorch_version"};

hdf5::File open_hessian_file(const std::filesystem::path& path) {
  try {
    auto file = hdf5::File::open_to_read(path);
    if (file.text_attribute("/", "format") == "hessian_mpi" && file.has("/hessian")) return file;
  } catch (const RunError& error) {
    throw InputError(text("'", path.string(), "' cannot be gone on with: it is damaged, or not a file of hessian_mpi (",
                          error.what(), "); begin again with --overwrite, or with another --output"));
  }
  throw InputError(text("'", path.string(), "' is not a file of hessian_mpi: nothing can be gone on with"));
}

std::string text_of(std::int64_t number) {
  return text(number);
}
std::string text_of(const std::string& word) {
  return word.empty() ? "none" : text('\'', word, '\'');
}

// Differences as "loss: 'mse' in the file, 'l1' now".
class Comparison {
 public:
  template <class Value>
  void compare(const std::string& what, const std::optional<Value>& in_file, const Value& now) {
    if (in_file && *in_file == now) return;
    differences_.push_back(
        text(what, ": ", in_file ? text_of(*in_file) : "not", " in the file, ", text_of(now), " now"));
  }
  void add(const std::string& difference) { differences_.push_back(difference); }
  const std::vector<std::string>& differences() const { return differences_; }

 private:
  std::vector<std::string> differences_;
};

void compare_attributes(const hdf5::File& file, const Attributes& attributes, Comparison& comparison) {
  for (const auto& [name, value] : attributes) {
    if (std::find(deciding_attributes.begin(), deciding_attributes.end(), name) == deciding_attributes.end()) continue;
    if (const auto* word = std::get_if<std::string>(&value)) {
      comparison.compare(name, file.text_attribute("/", name), *word);
    } else if (const auto* number = std::get_if<std::int64_t>(&value)) {
      comparison.compare(name, file.integer_attribute("/", name), *number);
    }
  }
}

std::vector<std::int64_t> integers(const hdf5::File& file, const std::string& name) {
  const auto shape = file.shape(name);
  std::vector<std::int64_t> values(shape.size() == 1 ? shape[0] : 0);
  if (!values.empty()) file.read(name, hdf5::Type::int64, values.data());
  return values;
}

void compare_parameters(const hdf5::File& file, const ParameterIndex& index, Comparison& comparison) {
  const auto names = file.read_strings("/parameters/name");
  const auto sizes = integers(file, "/parameters/size");
  const auto& entries = index.entries();
  for (std::size_t p = 0; p < std::max(names.size(), entries.size()); ++p) {
    const auto in_file = p < std::min(names.size(), sizes.size()) ? text(names[p], " with ", sizes[p], " elements")
                                                                  : std::string("nothing");
    const auto now = p < entries.size() ? text(entries[p].name, " with ", entries[p].size, " elements") : "nothing";
    if (in_file == now) continue;
    comparison.add(text("parameter ", p, ": ", in_file, " in the file, ", now, " now"));
    return;
  }
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    const double difference = std::abs(a[k] - b[k]);
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

double largest_of(const std::vector<double>& numbers) {
  double largest = 0;
  for (const double x : numbers) largest = std::max(largest, std::abs(x));
  return largest;
}

std::vector<double> numbers(const hdf5::File& file, const std::string& name, std::size_t count) {
  if (file.shape(name) != std::vector<std::uint64_t>{count}) return {};
  std::vector<double> values(count);
  file.read(name, hdf5::Type::float64, values.data());
  return values;
}

void compare_point(const hdf5::File& file, const HessianLayout& layout, Comparison& comparison, Resumed& resumed) {
  const auto value = numbers(file, "/parameters/value", layout.value.size());
  if (value != layout.value) comparison.add("the values of the parameters");
  const auto gradient = numbers(file, "/gradient", layout.gradient.size());
  if (gradient == layout.gradient) return;
  // Other processors add in another order; more than rounding means another function.
  const double rounding = layout.dtype == Precision::float32 ? 1e-3 : 1e-9;
  const bool close = gradient.size() == layout.gradient.size() &&
                     largest_difference(gradient, layout.gradient) <= rounding * largest_of(gradient);
  if (!close) {
    comparison.add("the gradient");
  } else {
    resumed.warnings.emplace_back(
        "the gradient differs from that in the file in its last digits (another kind of processor?): rows that are "
        "computed now may do so as well");
  }
}

void compare_matrix(const hdf5::File& file, const MatrixShape& matrix, Comparison& comparison) {
  const auto type = file.type("/hessian");
  comparison.compare("storage", std::optional<std::string>(type == hdf5::Type::float32 ? "float32" : "float64"),
                     std::string(name_of(matrix.storage)));
  comparison.compare("first row", file.integer_attribute("/", "row_begin"), matrix.grid.part().begin);
  comparison.compare("end of rows", file.integer_attribute("/", "row_end"), matrix.grid.part().end);
  const std::vector<std::uint64_t> shape{static_cast<std::uint64_t>(matrix.grid.part().count()),
                                         static_cast<std::uint64_t>(matrix.columns)};
  if (file.shape("/hessian") != shape) comparison.add("the shape of the matrix");
}

void throw_if_different(const std::filesystem::path& path, const std::vector<std::string>& differences) {
  if (differences.empty()) return;
  std::string listed;
  for (const auto& difference : differences) listed += (listed.empty() ? "" : "; ") + difference;
  throw InputError(text("'", path.string(), "' is of another job: ", listed,
                        ". Give the options that it was begun with, or another --output"));
}

}  // namespace

std::optional<int> threads_of_file(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto threads = open_hessian_file(path).integer_attribute("/", "threads");
  if (!threads || *threads < 1 || *threads > std::numeric_limits<int>::max()) return std::nullopt;
  return static_cast<int>(*threads);
}

Resumed resume_from(const std::filesystem::path& path, const HessianLayout& layout) {
  const auto file = open_hessian_file(path);
  try {
    Comparison comparison;
    Resumed resumed;
    compare_attributes(file, layout.attributes, comparison);
    compare_matrix(file, layout.matrix, comparison);
    compare_parameters(file, layout.index, comparison);
    if (comparison.differences().empty()) compare_point(file, layout, comparison, resumed);
    throw_if_different(path, comparison.differences());
    resumed.records = read_block_records(path, layout.matrix.grid);
    resumed.complete = file.integer_attribute("/", "complete") == 1;
    return resumed;
  } catch (const RunError& error) {
    throw InputError(text("'", path.string(), "' cannot be gone on with: it is damaged (", error.what(),
                          "); begin again with --overwrite, or with another --output"));
  }
}

}  // namespace hessian_mpi
