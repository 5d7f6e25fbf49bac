#include "hessian_mpi/resume.hpp"

#include <limits>

#include "hessian_mpi/edit_at_once.hpp"
#include "hessian_mpi/error.hpp"
#include "hessian_mpi/same_job.hpp"

namespace hessian_mpi {
namespace {

StoredLayout read_to_resume(const std::filesystem::path& path) {
  recover_edit(path);
  try {
    return read_layout(path);
  } catch (const InputError& error) {
    throw InputError(text("nothing can be gone on with: ", error.what(),
                          "; begin again with --overwrite, or with another --output"));
  }
}

std::string text_of_rows(const MatrixShape& matrix) {
  return text(matrix.grid.part().begin, ':', matrix.grid.part().end);
}

}  // namespace

std::optional<int> threads_of_file(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  for (const auto& [name, value] : read_to_resume(path).attributes) {
    const auto* threads = std::get_if<std::int64_t>(&value);
    if (name != "threads" || threads == nullptr) continue;
    if (*threads >= 1 && *threads <= std::numeric_limits<int>::max()) return static_cast<int>(*threads);
  }
  return std::nullopt;
}

Resumed resume_from(const std::filesystem::path& path, const HessianLayout& layout) {
  const auto stored = read_to_resume(path);
  auto comparison = compare_jobs(stored.layout(), layout, {"in the file", "now"});
  if (stored.matrix.grid.part() != layout.matrix.grid.part()) {
    comparison.differences.push_back(
        text("rows: ", text_of_rows(stored.matrix), " in the file, ", text_of_rows(layout.matrix), " now"));
  }
  if (!comparison.differences.empty()) {
    throw InputError(text("'", path.string(), "' is of another job: ", text_of_differences(comparison.differences),
                          ". Give the options that it was begun with, or another --output"));
  }
  return {read_block_records(path, layout.matrix.grid), stored.complete, comparison.warnings};
}

}  // namespace hessian_mpi
