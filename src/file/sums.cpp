#include "hessian_mpi/file/sums.hpp"

#include <algorithm>
#include <array>
#include <iomanip>
#include <optional>
#include <sstream>
#include <utility>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/lines.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/hdf5/hdf5.hpp"
#include "named_blocks.hpp"
#include "sum_lines.hpp"

namespace hessian_mpi::file {
namespace {

constexpr std::array datasets{"/gradient",        "/parameters/name",  "/parameters/offset", "/parameters/size",
                              "/parameters/ndim", "/parameters/shape", "/parameters/value",  "/blocks/begin",
                              "/blocks/end",      "/blocks/checksum",  "/blocks/largest",    "/blocks/mark"};
// Of a matrix with rows of samples.
constexpr std::array tables_of_rows{"/rows/sample", "/rows/output"};
// What changes where rows of a file are computed again.
constexpr std::array changing{"/blocks/checksum", "/blocks/largest", "/blocks/mark", "/@complete"};

template <class Names>
bool has(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string line_of(std::uint64_t sum, const std::string& name) {
  std::ostringstream line;
  line << std::hex << std::setfill('0') << std::setw(16) << sum << "  " << name << '\n';
  return line.str();
}

std::uint64_t sum_of_text(const std::string& characters) {
  return xxh3(characters.data(), characters.size());
}

// All names that sums are taken of.
std::vector<std::string> names_in(const std::filesystem::path& path) {
  const auto file = hdf5::File::open_to_read(path);
  std::vector<std::string> names(datasets.begin(), datasets.end());
  if (entries_in(file) == Entries::of_samples) names.insert(names.end(), tables_of_rows.begin(), tables_of_rows.end());
  if (file.has(group_of_named_blocks)) names.emplace_back(group_of_named_blocks);
  for (const std::string object : {"/", matrix_object(entries_in(file))}) {
    for (const auto& attribute : file.attributes(object)) {
      if (attribute != sums_attribute) names.push_back(text(object, '@', attribute));
    }
  }
  return names;
}

// Nothing where it is not there, or cannot be read.
std::optional<std::uint64_t> sum_if_readable(const hdf5::RawFile& file, const std::string& name) {
  // Of no other objects, which might lead into other files.
  constexpr std::array objects{"/", "/hessian", "/diagonal", "/jacobian"};
  const auto at = name.find('@');
  const bool known = has(datasets, name) || has(tables_of_rows, name) || name == group_of_named_blocks;
  if (at == std::string::npos ? !known : !has(objects, name.substr(0, at))) return std::nullopt;
  try {
    return sum_of(file, name);
  } catch (const RunError&) {
    return std::nullopt;
  }
}

// h5repack may have made datasets of views, each with the numbers of its block, which are checked in /hessian alone.
bool are_no_views(const hdf5::RawFile& file, const std::string& name) {
  try {
    return name == group_of_named_blocks && !file.views(name);
  } catch (const RunError&) {
    return false;
  }
}

}  // namespace

std::uint64_t sum_of(const hdf5::RawFile& file, const std::string& name) {
  const auto at = name.find('@');
  const auto bytes = [&] {
    if (at != std::string::npos) return file.attribute(name.substr(0, at), name.substr(at + 1));
    if (name != group_of_named_blocks) return file.dataset(name);
    if (const auto views = file.views(name)) return *views;
    throw RunError(text("'", name, "' has datasets that are no views"));
  }();
  return xxh3(bytes.data(), bytes.size());
}

std::vector<SumLine> stored_sums(const std::filesystem::path& path) {
  const auto stored = hdf5::File::open_to_read(path).text_attribute("/", sums_attribute).value_or("");
  std::vector<SumLine> sums;
  std::string before;
  bool whole = stored.empty();
  for (const auto& line : split_lines(stored)) {
    SumLine sum;
    std::istringstream words(line);
    if (!(words >> std::hex >> sum.sum) || !std::getline(words >> std::ws, sum.name)) break;
    whole = sum.name == sums_attribute && sum.sum == sum_of_text(before);
    if (!whole) sums.push_back(sum);
    before += line + '\n';
  }
  if (whole) return sums;
  throw RunError(text("the attribute '", sums_attribute, "' of '", path.string(), "' is damaged"));
}

void write_sums(const std::filesystem::path& path) {
  std::string lines;
  {
    const auto names = names_in(path);
    const hdf5::RawFile file(path);
    for (const auto& name : names) lines += line_of(sum_of(file, name), name);
  }
  lines += line_of(sum_of_text(lines), sums_attribute);
  auto file = hdf5::File::open_to_write(path);
  file.set_attribute("/", sums_attribute, lines);
  file.close();
}

SumCheck check_sums(const std::filesystem::path& path) {
  SumCheck check;
  const bool complete = hdf5::File::open_to_read(path).integer_attribute("/", "complete") == 1;
  try {
    const auto sums = stored_sums(path);
    const hdf5::RawFile file(path);
    for (const auto& [name, sum] : sums) {
      if ((!complete && has(changing, name)) || are_no_views(file, name)) continue;
      ++check.checked;
      if (sum_if_readable(file, name) != sum) check.damaged.push_back(name);
    }
  } catch (const RunError&) {
    check = {1, {text("/@", sums_attribute)}};
  }
  return check;
}

}  // namespace hessian_mpi::file
