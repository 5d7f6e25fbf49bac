#include "hessian_mpi/file/joined_parts.hpp"

#include <algorithm>
#include <set>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/lines.hpp"
#include "hessian_mpi/file/matrix_datasets.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"

namespace hessian_mpi::file {
namespace {

bool same_rows(const StoredBlock& a, const StoredBlock& b) {
  return a.rows == b.rows && a.record.checksum == b.record.checksum && a.record.on_disk == b.record.on_disk;
}

// What is wrong with it; nothing where it is the part that was joined. id: of that, empty where it had none.
std::string fault_of(const hdf5::File& part, const std::string& id, const std::vector<StoredBlock>& joined) {
  const auto found = part.text_attribute("/", "file_id").value_or("");
  if (!id.empty() && found != id) {
    return text("is another file than the one that was joined: its id is ", found.empty() ? "none" : found, ", not ",
                id);
  }
  const auto blocks = read_blocks(part);
  if (std::equal(blocks.begin(), blocks.end(), joined.begin(), joined.end(), same_rows)) return "";
  return "has other rows than those that were joined";
}

// Adds the wrong parts of a file, and of its parts that are joined themselves. folder: of that file, as seen from the
// first one. looked_at: files whose parts were, by their full names, so that those which refer to each other end.
void add_wrong_parts(const hdf5::File& joined, const std::filesystem::path& folder,
                     std::set<std::filesystem::path>& looked_at, std::vector<WrongPart>& wrong) {
  std::error_code none;
  if (!looked_at.insert(std::filesystem::canonical(joined.path(), none)).second) return;
  const auto entries = entries_in(joined);
  if (entries == Entries::diagonal || entries == Entries::diagonal_blocks) return;
  const auto parts = joined.rows_elsewhere(matrix_object(entries));
  if (parts.empty()) return;
  const auto ids = split_lines(joined.text_attribute("/", "part_file_ids").value_or(""));
  const auto blocks = read_blocks(joined);
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const auto& name = parts[k].file;
    const auto place = place_of_part(joined.path(), name);
    if (!std::filesystem::exists(place)) {
      wrong.push_back({folder / name, "is not there", true});
      continue;
    }
    std::vector<StoredBlock> of_part;
    std::copy_if(blocks.begin(), blocks.end(), std::back_inserter(of_part), [&](const StoredBlock& block) {
      const auto begin = static_cast<std::uint64_t>(block.rows.begin);
      return parts[k].begin <= begin && begin < parts[k].end;
    });
    try {
      const auto part = hdf5::File::open_untrusted(place);
      const auto fault = fault_of(part, k < ids.size() ? ids[k] : "", of_part);
      if (!fault.empty()) wrong.push_back({folder / name, fault});
      add_wrong_parts(part, folder / name.parent_path(), looked_at, wrong);
    } catch (const Error& error) {
      wrong.push_back({folder / name, text("is damaged, or no part: ", error.what())});
    }
  }
}

}  // namespace

std::filesystem::path place_of_part(const std::filesystem::path& joined, const std::filesystem::path& part) {
  const auto place = system::folder_of(joined) / part;
  std::error_code none;
  const auto linked = std::filesystem::canonical(joined, none).parent_path() / part;
  return !std::filesystem::exists(place) && std::filesystem::exists(linked) ? linked : place;
}

std::vector<WrongPart> wrong_parts_of(const hdf5::File& joined) {
  std::vector<WrongPart> wrong;
  std::set<std::filesystem::path> looked_at;
  add_wrong_parts(joined, "", looked_at, wrong);
  return wrong;
}

}  // namespace hessian_mpi::file
