#include "named_blocks.hpp"

#include <vector>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi::file {
namespace {

hdf5::View view_of_block(const std::string& group, const matrix::ParameterEntry& row,
                         const matrix::ParameterEntry& column) {
  return {text(group, '/', link_name(column.name)),
          {static_cast<std::uint64_t>(row.offset), static_cast<std::uint64_t>(column.offset),
           static_cast<std::uint64_t>(row.size), static_cast<std::uint64_t>(column.size)}};
}

}  // namespace

std::string link_name(const std::string& parameter) {
  if (parameter.empty()) return "%";
  if (parameter == ".") return "%2E";
  std::string name;
  for (const char c : parameter) {
    if (c == '/') {
      name += "%2F";
    } else if (c == '%') {
      name += "%25";
    } else {
      name += c;
    }
  }
  return name;
}

void create_named_blocks(hdf5::File& file, const matrix::ParameterIndex& index) {
  const bool all = index.entries().size() <= most_parameters_with_all_blocks;
  file.create_group(group_of_named_blocks);
  std::vector<hdf5::View> views;
  for (const auto& row : index.entries()) {
    if (row.size == 0) continue;
    const auto group = text(group_of_named_blocks, '/', link_name(row.name));
    file.create_group(group);
    for (const auto& column : index.entries()) {
      if (column.size > 0 && (all || &column == &row)) views.push_back(view_of_block(group, row, column));
    }
  }
  file.create_views("/hessian", views);
}

}  // namespace hessian_mpi::file
