#include "hessian_mpi/file/matrix_datasets.hpp"

#include <algorithm>
#include <cstdint>

#include "hessian_mpi/base/error.hpp"
#include "named_blocks.hpp"

namespace hessian_mpi::file {
namespace {

constexpr const char* whole = "/hessian";
constexpr const char* diagonal = "/diagonal";
constexpr const char* of_samples = "/jacobian";

std::vector<std::uint64_t> shape_of(const Rows& rows, const Rows& columns) {
  return {static_cast<std::uint64_t>(rows.count()), static_cast<std::uint64_t>(columns.count())};
}

MatrixDataset block_of(const std::string& parameter, const Rows& rows) {
  return {text(whole, '/', link_name(parameter)), rows, shape_of(rows, rows)};
}

// Those that a file of diagonal blocks has.
std::vector<MatrixDataset> blocks_in(const hdf5::File& file) {
  const auto names = file.read_strings("/parameters/name");
  for (const auto* column : {"/parameters/offset", "/parameters/size"}) {
    if (file.shape(column) == std::vector<std::uint64_t>{names.size()}) continue;
    throw RunError(text("'", file.path().string(), "' is damaged: '", column, "' has another shape than it should"));
  }
  std::vector<std::int64_t> offsets(names.size());
  std::vector<std::int64_t> sizes(names.size());
  file.read("/parameters/offset", hdf5::Type::int64, offsets.data());
  file.read("/parameters/size", hdf5::Type::int64, sizes.data());
  std::vector<MatrixDataset> blocks;
  for (std::size_t p = 0; p < names.size(); ++p) {
    if (sizes[p] > 0) blocks.push_back(block_of(names[p], {offsets[p], offsets[p] + sizes[p]}));
  }
  return blocks;
}

}  // namespace

const char* matrix_object(Entries entries) {
  return entries == Entries::diagonal ? diagonal : entries == Entries::of_samples ? of_samples : whole;
}

Entries entries_in(const hdf5::File& file) {
  if (file.has(diagonal)) return Entries::diagonal;
  if (file.has(of_samples)) return Entries::of_samples;
  return file.is_group(whole) ? Entries::diagonal_blocks : Entries::all;
}

std::vector<MatrixDataset> datasets_of(const matrix::MatrixShape& matrix, const matrix::ParameterIndex& index) {
  const Rows& part = matrix.grid.part();
  if (matrix.has_whole_rows()) {
    return {{matrix_object(matrix.entries), part, shape_of(part, {0, matrix.columns})}};
  }
  if (matrix.entries == Entries::diagonal) return {{diagonal, part, {static_cast<std::uint64_t>(part.count())}}};
  std::vector<MatrixDataset> blocks;
  for (const auto& entry : index.entries()) {
    if (entry.size > 0) blocks.push_back(block_of(entry.name, {entry.offset, entry.offset + entry.size}));
  }
  return blocks;
}

MatrixDatasets::MatrixDatasets(const hdf5::File& file) : entries_(entries_in(file)) {
  if (entries_ == Entries::diagonal_blocks) {
    datasets_ = blocks_in(file);
    return;
  }
  const auto* name = matrix_object(entries_);
  const auto shape = file.shape(name);
  const auto begin = file.integer_attribute("/", "row_begin").value_or(0);
  datasets_.push_back({name, {begin, begin + static_cast<std::int64_t>(shape.at(0))}, shape});
}

std::vector<std::string> MatrixDatasets::names() const {
  std::vector<std::string> names;
  for (const auto& dataset : datasets_) names.push_back(dataset.name);
  return names;
}

MatrixDatasets::Place MatrixDatasets::place_of(const Rows& rows, const Rows& columns) const {
  const auto after = std::upper_bound(datasets_.begin() + 1, datasets_.end(), rows.begin,
                                      [](std::int64_t i, const MatrixDataset& set) { return i < set.rows.begin; });
  const auto& dataset = *(after - 1);
  const auto first_column = entries_ == Entries::diagonal          ? columns.begin
                            : entries_ == Entries::diagonal_blocks ? dataset.rows.begin
                                                                   : 0;
  return {dataset.name,
          {static_cast<std::uint64_t>(rows.begin - dataset.rows.begin),
           static_cast<std::uint64_t>(columns.begin - first_column), static_cast<std::uint64_t>(rows.count()),
           static_cast<std::uint64_t>(columns.count())}};
}

std::optional<std::uint64_t> PlainOffsets::of(const MatrixDatasets::Place& place, std::uint64_t bytes) {
  auto found = begins_.find(place.dataset);
  if (found == begins_.end()) {
    found = begins_.emplace(place.dataset, file_.plain_offset(place.dataset, hdf5::type_of(storage_))).first;
  }
  if (!found->second || place.tile.rows == 0) return found->second;
  return *found->second + place.tile.row * (bytes / place.tile.rows);
}

}  // namespace hessian_mpi::file
