#include "reference.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <sstream>

namespace end_to_end {
namespace {

double largest(const std::vector<double>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0,
                         [](double m, double x) { return std::max(m, std::abs(x)); });
}

std::vector<std::int64_t> offsets_of(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> offsets(sizes.size(), 0);
  if (!sizes.empty()) std::partial_sum(sizes.begin(), sizes.end() - 1, offsets.begin() + 1);
  return offsets;
}

// "[32, 1, 3, 3]", padded with zeros to a width.
std::vector<std::int64_t> dimensions_of(std::string shape, std::size_t width, std::size_t& count) {
  std::replace_if(
      shape.begin(), shape.end(), [](char c) { return std::string("[],").find(c) != std::string::npos; }, ' ');
  std::istringstream in(shape);
  std::vector<std::int64_t> dimensions;
  for (std::int64_t d = 0; in >> d;) dimensions.push_back(d);
  count = dimensions.size();
  dimensions.resize(std::max(width, count), 0);
  return dimensions;
}

void expect_parameters_described_like(const StoredFile& file, const StoredFile& reference) {
  const auto names = reference.strings("/names");
  const auto shapes = reference.strings("/shapes");
  const auto sizes = reference.integers("/sizes");
  const auto offsets = offsets_of(sizes);
  EXPECT_EQ(file.attribute_strings("/hessian", "parameter_names"), names);
  EXPECT_EQ(file.attribute_strings("/hessian", "parameter_shapes"), shapes);
  EXPECT_EQ(file.attribute_integers("/hessian", "parameter_sizes"), sizes);
  EXPECT_EQ(file.attribute_integers("/hessian", "parameter_offsets"), offsets);
  EXPECT_EQ(file.strings("/parameters/name"), names);
  EXPECT_EQ(file.integers("/parameters/size"), sizes);
  EXPECT_EQ(file.integers("/parameters/offset"), offsets);

  const auto table_shape = file.shape("/parameters/shape");
  ASSERT_EQ(table_shape.size(), 2U);
  ASSERT_EQ(table_shape[0], names.size());
  const auto table = file.integers("/parameters/shape");
  const auto ndim = file.integers("/parameters/ndim");
  ASSERT_EQ(ndim.size(), names.size());
  std::size_t most_dimensions = 0;
  for (std::size_t p = 0; p < names.size(); ++p) {
    std::size_t count = 0;
    const auto expected = dimensions_of(shapes[p], table_shape[1], count);
    const auto begin = table.begin() + static_cast<std::ptrdiff_t>(p * table_shape[1]);
    EXPECT_EQ(std::vector<std::int64_t>(begin, begin + static_cast<std::ptrdiff_t>(table_shape[1])), expected)
        << names[p];
    EXPECT_EQ(ndim[p], static_cast<std::int64_t>(count)) << names[p];
    most_dimensions = std::max(most_dimensions, count);
  }
  EXPECT_EQ(table_shape[1], most_dimensions);
}

}  // namespace

double relative_difference(const std::vector<double>& numbers, const std::vector<double>& reference) {
  double worst = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double difference = std::abs(numbers[i] - reference[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
  }
  const double scale = largest(reference);
  return scale == 0 ? worst : worst / scale;
}

double relative_difference(const std::filesystem::path& file, const std::filesystem::path& reference) {
  return relative_difference(StoredFile(file).numbers("/hessian"), StoredFile(reference).numbers("/hessian"));
}

Words options_in(const std::filesystem::path& folder, const std::string& file) {
  Words options;
  for (auto word : lines_of(content_of(folder / file))) {
    const std::string placeholder = "@CASE@";
    const auto at = word.find(placeholder);
    if (at != std::string::npos) word.replace(at, placeholder.size(), folder.string());
    options.push_back(word);
  }
  return options;
}

Words options_of(const std::string& name) {
  return options_in(models() / name);
}

void expect_like_reference(const StoredFile& file, const StoredFile& reference, double tolerance) {
  ASSERT_EQ(file.shape("/hessian"), reference.shape("/hessian"));
  ASSERT_EQ(file.shape("/gradient"), reference.shape("/gradient"));
  ASSERT_EQ(file.shape("/parameters/value"), reference.shape("/value"));
  EXPECT_LE(relative_difference(file.numbers("/hessian"), reference.numbers("/hessian")), tolerance);
  EXPECT_LE(relative_difference(file.numbers("/gradient"), reference.numbers("/gradient")), tolerance);
  EXPECT_LE(relative_difference({file.attribute_number("/", "loss_value")}, reference.numbers("/loss_value")),
            tolerance);
  expect_parameters_described_like(file, reference);
}

}  // namespace end_to_end
