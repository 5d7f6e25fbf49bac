#include "hessian_mpi/run/resume.hpp"

#include <algorithm>
#include <limits>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/file/same_job.hpp"
#include "hessian_mpi/system/edit_at_once.hpp"

namespace hessian_mpi::run {
namespace {

file::StoredLayout read_to_resume(const std::filesystem::path& path) {
  system::recover_edit(path);
  try {
    return file::read_layout(path, {.complete = false, .square = false, .all_entries = false, .all_rows = false});
  } catch (const InputError& error) {
    throw InputError(text("nothing can be gone on with: ", error.what(),
                          "; begin again with --overwrite, or with another --output"));
  }
}

std::string text_of_rows(const matrix::MatrixShape& matrix) {
  return text(matrix.grid.part().begin, ':', matrix.grid.part().end);
}

}  // namespace

std::optional<int> threads_of_file(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto stored = read_to_resume(path);
  const auto* threads = file::find_attribute<std::int64_t>(stored.attributes, "threads");
  if (threads == nullptr || *threads < 1 || *threads > std::numeric_limits<int>::max()) return std::nullopt;
  return static_cast<int>(*threads);
}

Resumed resume_from(const std::filesystem::path& path, const file::HessianLayout& layout) {
  const auto stored = read_to_resume(path);
  auto comparison = file::compare_jobs(stored.layout(), layout, {"in the file", "now"});
  if (stored.matrix.grid.part() != layout.matrix.grid.part()) {
    comparison.differences.push_back(
        text("rows: ", text_of_rows(stored.matrix), " in the file, ", text_of_rows(layout.matrix), " now"));
  }
  if (!comparison.differences.empty()) {
    throw InputError(text("'", path.string(), "' is of another job: ", joined(comparison.differences, "; "),
                          ". Give the options that it was begun with, or another --output"));
  }
  const auto records = file::records_of(stored.blocks, layout.matrix.grid, path);
  const bool complete =
      stored.complete && std::all_of(records.begin(), records.end(), [](const auto& record) { return record.on_disk; });
  const bool to_be_opened = stored.complete ? !complete : stored.file_id.empty();
  if (to_be_opened) file::reopen_hessian_file(path);
  return {records, complete, comparison.warnings};
}

}  // namespace hessian_mpi::run
