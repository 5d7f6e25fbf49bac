#include "hessian_mpi/file/joined_parts.hpp"

#include <algorithm>

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
std::string fault_of(const std::filesystem::path& part, const std::string& id, const std::vector<StoredBlock>& joined) {
  try {
    const auto file = hdf5::File::open_untrusted(part);
    const auto found = file.text_attribute("/", "file_id").value_or("");
    if (!id.empty() && found != id) {
      return text("is another file than the one that was joined: its id is ", found.empty() ? "none" : found, ", not ",
                  id);
    }
    const auto blocks = read_blocks(file);
    if (!std::equal(blocks.begin(), blocks.end(), joined.begin(), joined.end(), same_rows)) {
      return "has other rows than those that were joined";
    }
    return "";
  } catch (const Error& error) {
    return text("is damaged, or no part: ", error.what());
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
  if (entries_in(joined) != Entries::all) return wrong;
  const auto parts = joined.rows_elsewhere(matrix_object(Entries::all));
  if (parts.empty()) return wrong;
  const auto ids = split_lines(joined.text_attribute("/", "part_file_ids").value_or(""));
  const auto blocks = read_blocks(joined);
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const auto place = place_of_part(joined.path(), parts[k].file);
    if (!std::filesystem::exists(place)) {
      wrong.push_back({parts[k].file, "is not there", true});
      continue;
    }
    std::vector<StoredBlock> of_part;
    std::copy_if(blocks.begin(), blocks.end(), std::back_inserter(of_part), [&](const StoredBlock& block) {
      const auto begin = static_cast<std::uint64_t>(block.rows.begin);
      return parts[k].begin <= begin && begin < parts[k].end;
    });
    const auto fault = fault_of(place, k < ids.size() ? ids[k] : "", of_part);
    if (!fault.empty()) wrong.push_back({parts[k].file, fault});
  }
  return wrong;
}

}  // namespace hessian_mpi::file
