#include "hessian_mpi/after/file_report.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <numeric>
#include <ostream>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"
#include "hessian_mpi/base/quantity.hpp"
#include "hessian_mpi/cli/command_line.hpp"
#include "hessian_mpi/cli/report_text.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"

namespace hessian_mpi::after {
namespace {

// A job that writes does so more often than this.
constexpr double seconds_of_a_pause = 60;
constexpr std::size_t most_parameters_shown = 60;
constexpr std::size_t most_runs_shown = 6;
// A table of norms that fits on a screen; of more parameters, the largest blocks are listed.
constexpr std::size_t most_columns_of_norms = 8;
constexpr std::size_t most_blocks_listed = 20;

double norm(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

std::string word(const file::Attributes& attributes, const std::string& name) {
  const auto* found = file::find_attribute<std::string>(attributes, name);
  return found == nullptr ? "" : printable(*found, 1000);
}
std::int64_t whole(const file::Attributes& attributes, const std::string& name) {
  const auto* found = file::find_attribute<std::int64_t>(attributes, name);
  return found == nullptr ? 0 : *found;
}
double number(const file::Attributes& attributes, const std::string& name) {
  const auto* found = file::find_attribute<double>(attributes, name);
  return found == nullptr ? std::nan("") : *found;
}

RowStorage storage_of(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_to_read(path);
  const auto datasets = file::MatrixDatasets(file).names();
  const auto& first = datasets.front();  // only a whole matrix is in chunks or parts
  return {file.chunks(first), file.rows_elsewhere(first), file::wrong_parts_of(file), file.stored_bytes(first)};
}

double seconds_since_change(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nan("");
  return std::difftime(std::time(nullptr), status.st_mtime);
}

std::string text_of_runs(const std::vector<Rows>& runs) {
  std::string shown;
  std::int64_t rows = 0;
  for (std::size_t k = 0; k < runs.size(); ++k) {
    rows += runs[k].count();
    if (k < most_runs_shown) shown += text(k == 0 ? "" : ", ", runs[k].begin, ':', runs[k].end);
  }
  return text(shown, runs.size() > most_runs_shown ? ", ..." : "", " (", cli::plural(rows, "row"), " in ",
              cli::plural(static_cast<std::int64_t>(runs.size()), "run"), ")");
}

bool any_check_failed(const file::Attributes& attributes) {
  return std::any_of(std::begin(file::named_figures), std::end(file::named_figures),
                     [&](const file::NamedFigure& named) {
                       return stored_check(attributes, named.name).outcome == file::CheckOutcome::failed;
                     });
}

std::string text_of_state(const FileReport& report) {
  const auto& stored = report.stored;
  if (report.storage.lacks_parts()) return "INCOMPLETE: part files are not there";
  if (!report.storage.wrong_parts.empty()) return "DAMAGED: part files are not those that were joined";
  if (contradicts_itself(report)) return "DAMAGED: it says that it is complete, and that rows are missing";
  if (stored.complete) return "complete";
  if (any_check_failed(stored.attributes)) return "NOT complete: a check failed";
  return missing_rows(stored).empty() ? "NOT complete: all rows are there, the last checks are not"
                                      : "NOT complete: rows are missing";
}

// Nothing where there is nothing to go on with.
std::string command_to_resume(const FileReport& report) {
  const auto& attributes = report.stored.attributes;
  const auto command = word(attributes, "command_line");
  if (report.stored.complete || command.empty() || !report.storage.is_plain() || report.stored.packed) return "";
  const auto ranks = std::max<std::int64_t>(1, whole(attributes, "ranks"));
  if (whole(attributes, "parts") == 0) return text("mpirun -n ", ranks, ' ', cli::command_line_to_resume(command));
  // hessian_join has made it, and hessian_mpi goes on with it.
  const auto of_part = word(attributes, "part_command_line");
  return text("mpirun -n ", ranks, ' ',
              of_part.empty() ? text("hessian_mpi, with the options of its parts but --rows, and --output ",
                                     report.file.string(), " --resume")
                              : cli::command_line_for_whole(of_part, report.file.string()));
}

void print_origin(std::ostream& out, const file::StoredLayout& stored) {
  const auto& a = stored.attributes;
  const auto options = word(a, "loss_options");
  const double l2 = number(a, "l2");
  cli::print_line(out, "model",
                  text(word(a, "model"), " (", word(a, "model_format"), "), in ", word(a, "mode"), " mode"));
  cli::print_line(out, "data", text(word(a, "data"), ", ", cli::plural(whole(a, "samples"), "sample")));
  cli::print_line(out, "loss",
                  text(cli::text_of_number(number(a, "loss_value"), 10), ", ", word(a, "loss"),
                       options.empty() ? "" : " (" + options + ")", l2 > 0 ? text(" + l2 of ", l2) : "", ", ",
                       word(a, "reduction")));
  cli::print_line(out, "gradient norm", cli::text_of_number(norm(stored.gradient), 6));
  const auto seconds = number(a, "wall_seconds");
  cli::print_line(out, "derived",
                  text("in ", word(a, "dtype"), " by ", word(a, "method"), ", on ",
                       cli::plural(whole(a, "ranks"), "rank"), ", ", cli::plural(whole(a, "threads"), "thread"),
                       " each", std::isfinite(seconds) ? " in " + text_of_seconds(seconds) : ""));
  cli::print_line(out, "made",
                  text(word(a, "created"), " by hessian_mpi ", word(a, "hessian_mpi_version"), ", LibTorch ",
                       word(a, "libtorch_version")));
  cli::print_line(out, "by", word(a, "command_line"));
  if (const auto conversion = word(a, "conversion"); !conversion.empty()) {
    cli::print_line(out, "converted",
                    text(conversion, ", from ", word(a, "converted_from"), ", ", word(a, "converted")));
  }
}

void print_storage(std::ostream& out, const FileReport& report) {
  const auto& storage = report.storage;
  if (report.stored.packed) {
    cli::print_line(
        out, "stored",
        text("packed: H[i, i:] of every row, one after the other, ", text_of_bytes(storage.bytes.value_or(0))));
    cli::print_line(out, "", text("hessian_convert '", report.file.string(), "' WHOLE.h5 makes a whole matrix of it"));
  }
  if (storage.chunks) {
    const auto& chunks = *storage.chunks;
    cli::print_line(
        out, "stored",
        text("in chunks of ", chunks.rows, " x ", chunks.columns, chunks.gzip > 0 ? text(", gzip ", chunks.gzip) : "",
             chunks.shuffle ? ", shuffled" : "", ", ", text_of_bytes(storage.bytes.value_or(0))));
  }
  if (!storage.parts.empty()) {
    cli::print_line(out, "stored",
                    text("in ", cli::plural(static_cast<std::int64_t>(storage.parts.size()), "part file")));
  }
  for (const auto& part : storage.wrong_parts) {
    cli::print_line(out, part.lost ? "  NOT there" : "  NOT joined",
                    part.lost ? part.file.string() : text(part.file.string(), ' ', part.what));
  }
}

void print_parameters(std::ostream& out, const file::StoredLayout& stored) {
  const auto& index = stored.index;
  const auto& entries = index.entries();
  cli::print_line(out, word(stored.attributes, "with_respect_to").starts_with("inputs") ? "inputs" : "parameters",
                  text("N = ", index.size(), " in ", cli::plural(static_cast<std::int64_t>(entries.size()), "tensor"),
                       "; first index, elements, shape, name:"));
  for (std::size_t p = 0; p < std::min(entries.size(), most_parameters_shown); ++p) {
    out << "    " << std::right << std::setw(10) << entries[p].offset << std::setw(10) << entries[p].size << "  "
        << std::left << std::setw(18) << matrix::text_of_shape(entries[p].shape) << printable(entries[p].name) << '\n';
  }
  if (entries.size() > most_parameters_shown) {
    out << "    ... and " << entries.size() - most_parameters_shown << " more: --json lists all\n";
  }
}

void print_completeness(std::ostream& out, const FileReport& report) {
  const auto& stored = report.stored;
  cli::print_line(out, "row blocks",
                  text(blocks_on_disk(stored).size(), " of ", stored.blocks.size(), " are on the disk, ",
                       stored.matrix.grid.rows_per_block(), " rows each"));
  const auto missing = missing_rows(stored);
  if (!missing.empty()) cli::print_line(out, "missing rows", text_of_runs(missing));
  if (stored.complete) return;
  if (report.seconds_since_change < seconds_of_a_pause) {
    cli::print_line(out, "last written",
                    text(text_of_seconds(report.seconds_since_change), " ago: a job may be writing it now"));
  } else {
    cli::print_line(out, "last written", text(text_of_seconds(report.seconds_since_change), " ago"));
  }
  if (const auto command = command_to_resume(report); !command.empty()) cli::print_line(out, "go on with", command);
}

// Parameters have numbers in the table, for their names are long.
void print_table_of_norms(std::ostream& out, const matrix::ParameterIndex& index, const std::vector<double>& norms) {
  const auto count = index.entries().size();
  out << "    " << std::setw(4) << "";
  for (std::size_t q = 0; q < count; ++q) out << std::right << std::setw(12) << q;
  out << '\n';
  for (std::size_t p = 0; p < count; ++p) {
    out << "    " << std::right << std::setw(4) << p;
    for (std::size_t q = 0; q < count; ++q) out << std::setw(12) << cli::text_of_number(norms[p * count + q], 5);
    out << "  " << printable(index.entries()[p].name) << '\n';
  }
}

void print_largest_norms(std::ostream& out, const matrix::ParameterIndex& index, const std::vector<double>& norms) {
  const auto count = index.entries().size();
  std::vector<std::size_t> order(norms.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto shown = std::min(order.size(), most_blocks_listed);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), order.end(),
                    [&](std::size_t a, std::size_t b) { return norms[a] > norms[b]; });
  for (std::size_t k = 0; k < shown; ++k) {
    out << "    " << std::right << std::setw(12) << cli::text_of_number(norms[order[k]], 5) << "  "
        << printable(index.entries()[order[k] / count].name) << ", "
        << printable(index.entries()[order[k] % count].name) << '\n';
  }
  out << "    ... the " << shown << " largest of " << order.size() << " blocks: --json lists all\n";
}

void print_figures(std::ostream& out, const matrix::ParameterIndex& index, const MatrixFigures& figures) {
  cli::print_line(out, "trace", cli::text_of_number(figures.trace, 10));
  cli::print_line(out, "Frobenius norm", cli::text_of_number(figures.frobenius_norm, 10));
  cli::print_line(out, "block norms", "Frobenius, of the rows of one parameter and the columns of another:");
  if (index.entries().size() <= most_columns_of_norms) {
    print_table_of_norms(out, index, figures.block_norms);
  } else {
    print_largest_norms(out, index, figures.block_norms);
  }
}

void print_verification(std::ostream& out, const FileReport& report) {
  const auto& check = *report.check;
  const auto damaged = static_cast<std::int64_t>(check.damaged.size());
  cli::print_line(out, "verified",
                  text(check.checked, " row blocks read, ",
                       damaged == 0 ? "all as they were computed" : text(damaged, " are DAMAGED")));
  if (damaged == 0) return;
  const auto rows = damaged_rows(report);
  cli::print_line(out, "  damaged rows", text_of_runs(rows));
  cli::print_line(out, "  the first",
                  text(rows.front().begin, ", ",
                       printable(report.stored.matrix.describe_row(rows.front().begin, report.stored.index))));
  for (const auto& [file, some] : damaged_parts(report)) {
    cli::print_line(out, "  in a part", text(file.string(), ": ", text_of_runs(some)));
  }
  if (!report.stored.complete || report.storage.chunks || report.stored.packed) return;
  cli::print_line(out, "  what to do",
                  report.storage.parts.empty()
                      ? "--verify --mark has hessian_mpi --resume compute them again"
                      : "hessian_info PART --verify --mark has hessian_mpi --resume compute them again in their part");
}

// All but the rows.
void print_sums(std::ostream& out, const FileReport& report) {
  const auto& sums = *report.sums;
  if (sums.checked == 0) {
    if (report.stored.complete)
      cli::print_line(out, "", "the file has no sums of anything else: it was made before there were any");
    return;
  }
  cli::print_line(out, "",
                  text(sums.checked, " other datasets and attributes, ",
                       sums.damaged.empty() ? "all as they were written"
                                            : text(sums.damaged.size(), " are DAMAGED: ", joined(sums.damaged, ", "))));
  if (sums.damaged.empty()) return;
  cli::print_line(out, "  what to do", "hessian_mpi --resume --verify all puts back what its job makes again");
}

// --- JSON -----------------------------------------------------------------------------------------------------------

using Json = nlohmann::ordered_json;

Json json_of_runs(const std::vector<Rows>& runs) {
  Json list = Json::array();
  for (const auto& run : runs) list.push_back({run.begin, run.end});
  return list;
}

Json json_of_matrix(const FileReport& report) {
  const auto& matrix = report.stored.matrix;
  Json json{{"kind", word(report.stored.attributes, "matrix")},
            {"N", matrix.columns},
            {"row_begin", matrix.grid.part().begin},
            {"row_end", matrix.grid.part().end},
            {"dtype", name_of(matrix.storage)},
            {"bytes", matrix.bytes()},
            {"largest", largest_entry(report.stored)}};
  if (matrix.entries == Entries::of_samples) json["rows_of_sample"] = matrix.rows_of_sample;
  json["layout"] = report.stored.packed           ? "packed triangle"
                   : report.storage.chunks        ? "chunked"
                   : report.storage.parts.empty() ? "contiguous"
                                                  : "virtual";
  if (report.storage.bytes) json["stored_bytes"] = *report.storage.bytes;
  if (report.storage.chunks) {
    const auto& chunks = *report.storage.chunks;
    json["chunks"] = {
        {"rows", chunks.rows}, {"columns", chunks.columns}, {"gzip", chunks.gzip}, {"shuffle", chunks.shuffle}};
  }
  json["parts"] = Json::array();
  for (const auto& part : report.storage.parts) json["parts"].push_back(part.file.string());
  json["lost_parts"] = Json::array();
  json["wrong_parts"] = Json::array();
  for (const auto& part : report.storage.wrong_parts) {
    if (part.lost) {
      json["lost_parts"].push_back(part.file.string());
    } else {
      json["wrong_parts"].push_back({{"file", part.file.string()}, {"what", part.what}});
    }
  }
  return json;
}

Json json_of_parameters(const matrix::ParameterIndex& index) {
  Json list = Json::array();
  for (const auto& entry : index.entries()) {
    list.push_back({{"name", entry.name}, {"shape", entry.shape}, {"offset", entry.offset}, {"size", entry.size}});
  }
  return list;
}

Json json_of_figures(const MatrixFigures& figures) {
  const auto count = figures.traces.size();
  Json norms = Json::array();
  for (std::size_t p = 0; p < count; ++p) {
    const auto begin = figures.block_norms.begin() + static_cast<std::ptrdiff_t>(p * count);
    norms.push_back(std::vector<double>(begin, begin + static_cast<std::ptrdiff_t>(count)));
  }
  return {{"trace", figures.trace},
          {"frobenius_norm", figures.frobenius_norm},
          {"traces", figures.traces},
          {"block_norms", norms}};
}

}  // namespace

file::StoredLayout read_anything(const std::filesystem::path& path) {
  return file::read_layout(
      path, {.complete = false, .square = false, .all_entries = false, .all_rows = false, .unpacked = false});
}

FileReport report_on(const std::filesystem::path& path) {
  FileReport report;
  report.file = path;
  report.stored = read_anything(path);
  report.storage = storage_of(path);
  report.seconds_since_change = seconds_since_change(path);
  return report;
}

matrix::BlockList blocks_on_disk(const file::StoredLayout& stored) {
  matrix::BlockList blocks;
  for (std::size_t b = 0; b < stored.blocks.size(); ++b) {
    if (stored.blocks[b].record.on_disk) blocks.push_back(static_cast<std::int64_t>(b));
  }
  return blocks;
}

std::vector<Rows> missing_rows(const file::StoredLayout& stored) {
  std::vector<Rows> runs;
  for (const auto& block : stored.blocks) {
    if (!block.record.on_disk) matrix::append_run(block.rows, runs);
  }
  return runs;
}

double largest_entry(const file::StoredLayout& stored) {
  double largest = 0;
  for (const auto& block : stored.blocks) {
    if (block.record.on_disk) largest = std::max(largest, block.record.largest);
  }
  return largest;
}

file::CheckFigure stored_check(const file::Attributes& attributes, const std::string& name) {
  file::CheckFigure check{number(attributes, name + "_error"), number(attributes, name + "_tolerance")};
  const auto found = word(attributes, name + "_check");
  for (const auto outcome : file::outcomes) {
    if (found == name_of(outcome)) check.outcome = outcome;
  }
  return check;
}

bool RowStorage::lacks_parts() const {
  return std::any_of(wrong_parts.begin(), wrong_parts.end(), [](const auto& part) { return part.lost; });
}

bool contradicts_itself(const FileReport& report) {
  return report.stored.complete && !missing_rows(report.stored).empty();
}

bool is_sound(const FileReport& report) {
  return report.storage.wrong_parts.empty() && !contradicts_itself(report);
}

std::vector<Rows> damaged_rows(const FileReport& report) {
  std::vector<Rows> runs;
  if (!report.check) return runs;
  for (const auto b : report.check->damaged)
    matrix::append_run(report.stored.blocks[static_cast<std::size_t>(b)].rows, runs);
  return runs;
}

std::vector<DamagedPart> damaged_parts(const FileReport& report) {
  std::vector<DamagedPart> damaged;
  for (const auto& part : report.storage.parts) {
    DamagedPart found{part.file, {}};
    for (const auto& run : damaged_rows(report)) {
      const Rows common{std::max(run.begin, static_cast<std::int64_t>(part.begin)),
                        std::min(run.end, static_cast<std::int64_t>(part.end))};
      if (common.begin < common.end) found.rows.push_back(common);
    }
    if (!found.rows.empty()) damaged.push_back(found);
  }
  return damaged;
}

void print(std::ostream& out, const FileReport& report) {
  const auto& stored = report.stored;
  out << report.file.string() << ": " << text_of_state(report) << '\n';
  cli::print_line(out, cli::title_of(word(stored.attributes, "matrix")),
                  stored.packed ? text("the upper triangle of ", stored.matrix.columns, " x ", stored.matrix.columns,
                                       ' ', name_of(stored.matrix.storage))
                                : cli::text_of_size(stored.matrix));
  print_storage(out, report);
  print_origin(out, stored);
  cli::print_line(out, cli::title_of_largest(stored.matrix), cli::text_of_number(largest_entry(stored), 6));
  for (const auto& [name, figure] : file::named_figures) {
    cli::print_line(out, text(name, " error"), cli::text_of_check(stored_check(stored.attributes, name)));
  }
  print_completeness(out, report);
  print_parameters(out, stored);
  if (report.figures) print_figures(out, stored.index, *report.figures);
  if (report.check) print_verification(out, report);
  if (report.sums) print_sums(out, report);
  out << std::flush;
}

std::string json_of(const FileReport& report) {
  const auto& stored = report.stored;
  Json json{
      {"file", report.file.string()}, {"complete", stored.complete && is_sound(report)}, {"file_id", stored.file_id}};
  json["matrix"] = json_of_matrix(report);
  for (const auto& [name, value] : stored.attributes) {
    std::visit([&, &key = name](const auto& v) { json["attributes"][key] = v; }, value);
  }
  json["gradient_norm"] = norm(stored.gradient);
  for (const auto& [name, figure] : file::named_figures) {
    const auto check = stored_check(stored.attributes, name);
    json["checks"][name] = {
        {"error", check.error}, {"tolerance", check.tolerance}, {"outcome", name_of(check.outcome)}};
  }
  json["blocks"] = {{"count", stored.blocks.size()},
                    {"on_disk", blocks_on_disk(stored).size()},
                    {"missing_rows", json_of_runs(missing_rows(stored))}};
  const auto command = command_to_resume(report);
  json["resume"] = command.empty() ? Json() : Json(command);
  json["parameters"] = json_of_parameters(stored.index);
  if (report.figures) json["norms"] = json_of_figures(*report.figures);
  if (report.check) {
    json["verified"] = {{"blocks", report.check->checked},
                        {"damaged_blocks", report.check->damaged},
                        {"damaged_rows", json_of_runs(damaged_rows(report))}};
    if (report.sums && report.sums->checked > 0) {
      json["verified"]["sums"] = {{"checked", report.sums->checked}, {"damaged", report.sums->damaged}};
    }
    for (const auto& [file, rows] : damaged_parts(report)) {
      json["verified"]["damaged_parts"].push_back({{"file", file.string()}, {"rows", json_of_runs(rows)}});
    }
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace hessian_mpi::after
