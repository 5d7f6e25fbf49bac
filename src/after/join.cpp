#include "hessian_mpi/after/join.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/file/file_checks.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/same_job.hpp"

namespace hessian_mpi::after {
namespace {

// A part, and what its file says.
struct Part {
  std::filesystem::path path;
  file::StoredLayout stored;
  const Rows& rows() const { return stored.matrix.grid.part(); }
};

std::string text_of_rows(const Part& part) {
  return text("'", part.path.string(), "' (rows ", part.rows().begin, ':', part.rows().end, ")");
}

void expect_every_row_once(const std::vector<Part>& parts) {
  const auto n = parts.front().stored.matrix.grid.rows();
  std::int64_t next = 0;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const auto& rows = parts[k].rows();
    if (rows.begin > next) {
      throw InputError(text("no part has rows ", next, ':', rows.begin, ", before ", text_of_rows(parts[k])));
    }
    if (rows.begin < next) {
      throw InputError(text(text_of_rows(parts[k - 1]), " and ", text_of_rows(parts[k]), " overlap"));
    }
    next = rows.end;
  }
  if (next != n) throw InputError(text("no part has rows ", next, ':', n, ", after ", text_of_rows(parts.back())));
}

std::vector<std::string> expect_same_job(const std::vector<Part>& parts) {
  std::vector<std::string> warnings;
  const auto& first = parts.front();
  for (std::size_t k = 1; k < parts.size(); ++k) {
    const auto comparison =
        file::compare_jobs(first.stored.layout(), parts[k].stored.layout(), {"in the first", "in the second"});
    if (!comparison.differences.empty()) {
      throw InputError(text("'", first.path.string(), "' and '", parts[k].path.string(),
                            "' come from different jobs: ", joined(comparison.differences, "; ")));
    }
    for (const auto& warning : comparison.warnings) {
      warnings.push_back(text("'", first.path.string(), "' and '", parts[k].path.string(), "': ", warning));
    }
  }
  return warnings;
}

// An attribute of each part that has it.
std::vector<double> figures(const std::vector<Part>& parts, const std::string& name) {
  std::vector<double> found;
  for (const auto& part : parts) {
    if (const auto* number = file::find_attribute<double>(part.stored.attributes, name)) found.push_back(*number);
  }
  return found;
}

// NaN counts as a figure that was not taken.
double worst(const std::vector<Part>& parts, const std::string& name) {
  double largest = 0;
  for (const double figure : figures(parts, name)) {
    if (std::isnan(figure)) return figure;
    largest = std::max(largest, figure);
  }
  return largest;
}

// The name of the worst outcome.
std::string worst_outcome(const std::vector<Part>& parts, const std::string& name) {
  auto worst = file::CheckOutcome::not_made;
  for (const auto& part : parts) {
    const auto* found = file::find_attribute<std::string>(part.stored.attributes, name);
    for (const auto outcome : file::outcomes) {
      if (found != nullptr && *found == name_of(outcome)) worst = std::max(worst, outcome);
    }
  }
  return name_of(worst);
}

double sum(const std::vector<Part>& parts, const std::string& name) {
  const auto found = figures(parts, name);
  return std::accumulate(found.begin(), found.end(), 0.0);
}

// Those of the first part, but for figures of the whole.
file::Attributes joined_attributes(const std::vector<Part>& parts, const std::string& command_line) {
  file::Attributes of_whole{{"wall_seconds", sum(parts, "wall_seconds")}, {"command_line", command_line}};
  for (const auto* check : {"row", "gradient", "difference"}) {
    of_whole.emplace_back(text(check, "_error"), worst(parts, text(check, "_error")));
    of_whole.emplace_back(text(check, "_check"), worst_outcome(parts, text(check, "_check")));
  }
  auto attributes = parts.front().stored.attributes;
  for (auto& [name, value] : attributes) {
    for (const auto& [key, whole] : of_whole) {
      if (key == name) value = whole;
    }
  }
  if (const auto* of_part = file::find_attribute<std::string>(parts.front().stored.attributes, "command_line")) {
    attributes.emplace_back("part_command_line", *of_part);
  }
  attributes.emplace_back("parts", static_cast<std::int64_t>(parts.size()));
  return attributes;
}

double largest_of(const std::vector<Part>& parts) {
  double largest = 0;
  for (const auto& part : parts) {
    for (const auto& block : part.stored.blocks) largest = std::max(largest, block.record.largest);
  }
  return largest;
}

}  // namespace

Joined join_parts(const JoinOptions& options) {
  std::vector<Part> parts;
  for (const auto& path : options.parts)
    parts.push_back({path, file::read_layout(path, {.square = false, .all_rows = false})});
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.rows().begin < b.rows().begin; });
  Joined joined;
  joined.warnings = expect_same_job(parts);
  expect_every_row_once(parts);

  const auto& first = parts.front().stored;
  const Rows all{0, first.matrix.grid.rows()};
  const auto matrix = first.matrix.part(all);
  const auto attributes = joined_attributes(parts, options.command_line);
  std::vector<file::PartFile> files;
  files.reserve(parts.size());
  for (const auto& part : parts) files.push_back({part.path, part.rows(), part.stored.blocks});
  const double tolerance = file::tolerances_of(std::min(first.dtype, matrix.storage)).symmetry;
  file::create_joined_file(
      options.output, {first.index, matrix, first.dtype, first.value, first.gradient, attributes}, files, options.copy,
      options.overwrite, [&](const std::filesystem::path& file) -> file::Attributes {
        if (matrix.entries == Entries::of_samples) return {};
        const double error = file::symmetry_error(file, file::sample_for_symmetry(first.index, all), largest_of(parts));
        joined.symmetry_error = error;
        if (!(error <= tolerance)) {
          throw RunError(text("the joined matrix is not symmetric (", error, " is above ", tolerance,
                              "): a part is damaged, or of another job"));
        }
        return file::Attributes{{"symmetry_error", error},
                                {"symmetry_tolerance", tolerance},
                                {"symmetry_check", std::string(name_of(file::CheckOutcome::passed))}};
      });
  joined.rows = all.end;
  joined.columns = matrix.columns;
  joined.bytes = static_cast<std::uint64_t>(matrix.bytes());
  return joined;
}

}  // namespace hessian_mpi::after
