#include "hessian_mpi/system/edit_at_once.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "hessian_mpi/base/checksum.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/posix_file.hpp"
#include "hessian_mpi/system/unfinished_file.hpp"
#include "hessian_mpi/system/used_files.hpp"

namespace hessian_mpi::system {
namespace {

constexpr std::uint64_t page = 4096;

std::vector<char> bytes_of(const PosixFile& file, std::uint64_t offset, std::uint64_t bytes) {
  std::vector<char> buffer(bytes, '\0');
  file.read_some(offset, buffer.data(), bytes);  // bytes beyond the end are zeros
  return buffer;
}

void write(const PosixFile& file, std::uint64_t offset, const std::vector<char>& bytes) {
  file.write(offset, bytes.data(), bytes.size());
}

// Calls visit(offset, bytes) for what has been written to the file, in pieces, passing over holes.
template <class Visit>
void each_piece(const PosixFile& file, const Visit& visit) {
  constexpr off_t largest = 1 << 20;
  const auto end = static_cast<off_t>(file.size());
  const auto next = [&](off_t from, int what) { return ::lseek(file.descriptor(), from, what); };
  for (off_t begin = next(0, SEEK_DATA); begin >= 0 && begin < end;) {
    const off_t hole = std::min(next(begin, SEEK_HOLE), begin + largest);
    visit(static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(hole - begin));
    begin = next(hole, SEEK_DATA);
  }
}

// What an edit changes: pages of the file, and its size.
struct Change {
  std::uint64_t offset;
  std::vector<char> bytes;
};
struct Changes {
  std::uint64_t size = 0;
  std::vector<Change> pages;
};

// Calls visit(offset, bytes) for the pages of a file of some size that are not left alone.
template <class Visit>
void each_page(std::uint64_t size, const std::vector<Extent>& left_alone, const Visit& visit) {
  std::uint64_t offset = 0;
  const auto visit_until = [&](std::uint64_t last) {
    while (offset < last) {
      const auto end = std::min(last, (offset / page + 1) * page);
      visit(offset, end - offset);
      offset = end;
    }
  };
  for (const auto& extent : left_alone) {
    visit_until(std::min(size, extent.offset));
    offset = std::max(offset, extent.offset + extent.bytes);
  }
  visit_until(size);
}

// A folder whose files take memory only for what is written to them, and whose name libraries can open. One for each
// file that it is needed for, by name: what a killed process has left there goes with the next one.
class FolderInMemory {
 public:
  explicit FolderInMemory(const std::filesystem::path& needed_for) : path_(name_for(needed_for)) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    if (::mkdir(path_.c_str(), 0700) != 0) {
      throw RunError(text("'", path_.string(), "' could not be made: ", reason(errno)));
    }
  }
  ~FolderInMemory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  FolderInMemory(const FolderInMemory&) = delete;
  FolderInMemory& operator=(const FolderInMemory&) = delete;
  std::filesystem::path file() const { return path_ / "file"; }

 private:
  static std::filesystem::path name_for(const std::filesystem::path& file) {
    const std::filesystem::path memory = "/dev/shm";
    const auto parent = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
    const auto absolute = std::filesystem::absolute(file).string();
    return parent / text("hessian_mpi-", ::getuid(), '-', std::hex, xxh3(absolute.data(), absolute.size()));
  }
  std::filesystem::path path_;
};

PosixFile create_new(const std::filesystem::path& path) {
  return {path, O_RDWR | O_CREAT | O_EXCL};
}

Changes changes_made_by(const std::function<void(const std::filesystem::path&)>& edit,
                        const std::filesystem::path& name, const PosixFile& file,
                        const std::vector<Extent>& left_alone) {
  const FolderInMemory memory(name);
  const PosixFile copy = create_new(memory.file());
  copy.resize(file.size());
  each_page(file.size(), left_alone,
            [&](std::uint64_t offset, std::uint64_t bytes) { write(copy, offset, bytes_of(file, offset, bytes)); });
  edit(memory.file());
  Changes changes{copy.size(), {}};
  each_page(changes.size, left_alone, [&](std::uint64_t offset, std::uint64_t bytes) {
    auto after = bytes_of(copy, offset, bytes);
    if (after != bytes_of(file, offset, bytes)) changes.pages.push_back({offset, std::move(after)});
  });
  return changes;
}

// --- the log: numbers of 8 bytes, pages, and the XXH3 of all before it

constexpr std::uint64_t log_format = 0x31474f4c4f444552;  // "REDOLOG1"

std::filesystem::path log_of(const std::filesystem::path& path) {
  const auto file = target_of(path);  // one log, by whatever name the file is opened
  return file.parent_path() / text('.', file.filename().string(), ".redo");
}

void append(std::vector<char>& log, std::uint64_t number) {
  const auto* bytes = reinterpret_cast<const char*>(&number);
  log.insert(log.end(), bytes, bytes + sizeof(number));
}

std::vector<char> log_with(const Changes& changes) {
  std::vector<char> log;
  append(log, log_format);
  append(log, changes.size);
  append(log, changes.pages.size());
  for (const auto& [offset, bytes] : changes.pages) {
    append(log, offset);
    append(log, bytes.size());
    log.insert(log.end(), bytes.begin(), bytes.end());
  }
  append(log, xxh3(log.data(), log.size()));
  return log;
}

std::uint64_t number_at(const std::vector<char>& log, std::size_t place) {
  std::uint64_t number = 0;
  std::memcpy(&number, log.data() + place, sizeof(number));
  return number;
}

// Nothing where the log was not written to its end: the file has not been touched then.
std::optional<Changes> changes_in(const std::vector<char>& log) {
  constexpr std::size_t width = sizeof(std::uint64_t);
  const bool whole = log.size() >= 4 * width && number_at(log, 0) == log_format &&
                     number_at(log, log.size() - width) == xxh3(log.data(), log.size() - width);
  if (!whole) return std::nullopt;
  Changes changes{number_at(log, width), {}};
  std::size_t place = 3 * width;
  for (auto left = number_at(log, 2 * width); left > 0; --left) {
    const auto offset = number_at(log, place);
    const auto bytes = number_at(log, place + width);
    const auto begin = log.begin() + static_cast<std::ptrdiff_t>(place + 2 * width);
    changes.pages.push_back({offset, {begin, begin + static_cast<std::ptrdiff_t>(bytes)}});
    place += 2 * width + bytes;
  }
  return changes;
}

// Can be repeated: a second time changes nothing.
void apply(const Changes& changes, const PosixFile& file) {
  if (file.size() != changes.size) file.resize(changes.size);
  for (const auto& [offset, bytes] : changes.pages) write(file, offset, bytes);
  file.sync();
}

void write_log(const std::filesystem::path& path, const std::vector<char>& bytes) {
  UnfinishedFile unfinished(path, UnfinishedFile::UnderItsName{});
  const PosixFile log(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
  write(log, 0, bytes);
  log.sync();
  unfinished.keep();
}

}  // namespace

void make_at_once(const std::filesystem::path& path, const std::function<void(const std::filesystem::path&)>& make) {
  const FolderInMemory memory(path);
  make(memory.file());
  const PosixFile made(memory.file(), O_RDWR);
  const auto file = create_new(path);
  file.resize(made.size());
  each_piece(made,
             [&](std::uint64_t offset, std::uint64_t bytes) { write(file, offset, bytes_of(made, offset, bytes)); });
  file.sync();
}

void edit_at_once(const std::filesystem::path& path, const std::vector<Extent>& left_alone,
                  const std::function<void(const std::filesystem::path&)>& edit) {
  const PosixFile file(path, O_RDWR);
  const auto changes = changes_made_by(edit, path, file, left_alone);
  const auto more = changes.size > file.size() ? changes.size - file.size() : 0;
  if (const int error = more == 0 ? 0 : file.take_space(file.size(), more, /*grow=*/false); error != 0) {
    throw RunError(text("'", path.string(), "' could not be extended: ", reason(error)));
  }
  write_log(log_of(path), log_with(changes));
  apply(changes, file);
  ::unlink(log_of(path).c_str());
}

void edit_unfinished(const std::filesystem::path& path, const std::vector<Extent>& left_alone,
                     const std::function<void(const std::filesystem::path&)>& edit) {
  const PosixFile file(path, O_RDWR);
  apply(changes_made_by(edit, path, file, left_alone), file);
}

void recover_edit(const std::filesystem::path& path) {
  const auto log_path = log_of(path);
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(log_path))) return;
  std::optional<Changes> changes;
  {
    const PosixFile log(log_path, O_RDONLY | O_NOFOLLOW);
    changes = changes_in(bytes_of(log, 0, log.size()));
  }
  if (changes) apply(*changes, {path, O_RDWR});
  ::unlink(log_path.c_str());
}

}  // namespace hessian_mpi::system
