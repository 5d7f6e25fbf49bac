#include "hessian_mpi/system/edit_at_once.hpp"

#include <fcntl.h>
#include <sys/file.h>
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
#include "hessian_mpi/system/file_size_limit.hpp"
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

// What an edit changes: pages of the file, and its size. Pages that it does not change are known by their sum.
struct Change {
  std::uint64_t offset;
  std::vector<char> before;
  std::vector<char> after;
};
struct Changes {
  std::uint64_t size_before = 0;
  std::uint64_t size = 0;
  std::vector<Extent> left_alone;
  std::vector<Change> pages;
  std::uint64_t sum_of_others = 0;
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

// A folder whose files take memory only for what is written to them, and whose name libraries can open. It is locked as
// long as it is used: what killed processes have left is not, and the next one removes it.
class FolderInMemory {
 public:
  FolderInMemory() {
    remove_leftovers();
    constexpr int most_attempts = 100;
    for (int k = 0; k < most_attempts; ++k) {
      std::string name = (place() / (prefix() + "XXXXXX")).string();
      if (::mkdtemp(name.data()) == nullptr) throw RunError(text("'", name, "' could not be made: ", reason(errno)));
      path_ = name;
      lock_ = lock_of(path_);
      // Else another process took it for a leftover, and removes it.
      if (lock_ >= 0 && std::filesystem::exists(path_)) return;
      if (lock_ >= 0) ::close(lock_);
    }
    throw RunError(text("'", path_.string(), "' could not be locked"));
  }
  ~FolderInMemory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    ::close(lock_);
  }
  FolderInMemory(const FolderInMemory&) = delete;
  FolderInMemory& operator=(const FolderInMemory&) = delete;
  std::filesystem::path file() const { return path_ / "file"; }

 private:
  static std::filesystem::path place() {
    const std::filesystem::path memory = "/dev/shm";
    return std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
  }
  // Another one than before there were locks: folders of those versions are in use without.
  static std::string prefix() { return text("hessian_mpi-edit-", ::getuid(), '-'); }
  // An open and locked folder; -1 where somebody else has it, it is another user's or gone, or there are no locks.
  static int lock_of(const std::filesystem::path& folder) {
    const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status {};
    if (opened < 0) return -1;
    const bool own = ::fstat(opened, &status) == 0 && status.st_uid == ::getuid();
    if (own && ::flock(opened, LOCK_EX | LOCK_NB) == 0) return opened;
    ::close(opened);
    return -1;
  }
  static void remove_leftovers() {
    std::error_code ignored;
    for (std::filesystem::directory_iterator entry(place(), ignored), end; !ignored && entry != end;
         entry.increment(ignored)) {
      if (!entry->path().filename().string().starts_with(prefix())) continue;
      const int lock = lock_of(entry->path());
      if (lock < 0) continue;
      std::error_code of_removal;
      std::filesystem::remove_all(entry->path(), of_removal);
      ::close(lock);
    }
  }
  std::filesystem::path path_;
  int lock_ = -1;
};

PosixFile create_new(const std::filesystem::path& path) {
  return {path, O_RDWR | O_CREAT | O_EXCL};
}

// Of the pages that the changes pass over, so that it is the same before them, between and after.
std::uint64_t sum_of_others(const Changes& changes, const PosixFile& file) {
  std::vector<std::uint64_t> sums;
  auto changed = changes.pages.begin();
  each_page(changes.size, changes.left_alone, [&](std::uint64_t offset, std::uint64_t bytes) {
    if (changed != changes.pages.end() && changed->offset == offset) {
      ++changed;
      return;
    }
    const auto page_now = bytes_of(file, offset, bytes);
    sums.push_back(xxh3(page_now.data(), page_now.size()));
  });
  return xxh3(sums.data(), sums.size() * sizeof(std::uint64_t));
}

Changes changes_made_by(const std::function<void(const std::filesystem::path&)>& edit, const PosixFile& file,
                        const std::vector<Extent>& left_alone) {
  // The library that edits does not survive a write that fails.
  constexpr std::uint64_t most_growth = 1 << 20;
  if (largest_file() < file.size() + most_growth) {
    throw RunError(text("'", file.path().string(), "' cannot be written to: ", reason(EFBIG), ": raise `ulimit -f`"));
  }
  const FolderInMemory memory;
  const PosixFile copy = create_new(memory.file());
  copy.resize(file.size());
  each_page(file.size(), left_alone,
            [&](std::uint64_t offset, std::uint64_t bytes) { write(copy, offset, bytes_of(file, offset, bytes)); });
  edit(memory.file());
  Changes changes{file.size(), copy.size(), left_alone, {}};
  each_page(changes.size, left_alone, [&](std::uint64_t offset, std::uint64_t bytes) {
    auto before = bytes_of(file, offset, bytes);
    auto after = bytes_of(copy, offset, bytes);
    if (after != before) changes.pages.push_back({offset, std::move(before), std::move(after)});
  });
  changes.sum_of_others = sum_of_others(changes, file);
  return changes;
}

// Whether the changes are of this file: none of them, some or all may be in it already, a page in part.
bool are_of(const Changes& changes, const PosixFile& file) {
  const auto size = file.size();
  if (size != changes.size_before && size != changes.size) return false;
  for (const auto& [offset, before, after] : changes.pages) {
    const auto now = bytes_of(file, offset, after.size());
    for (std::size_t k = 0; k < now.size(); ++k) {
      if (now[k] != before[k] && now[k] != after[k]) return false;
    }
  }
  return sum_of_others(changes, file) == changes.sum_of_others;
}

// --- the log: numbers of 8 bytes, pages before and after, and the XXH3 of all before it

constexpr std::uint64_t log_format = 0x32474f4c4f444552;  // "REDOLOG2"
// Of version 0.4, which did not say of which file it is.
constexpr std::uint64_t anonymous_log_format = 0x31474f4c4f444552;  // "REDOLOG1"

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
  for (const auto number : {log_format, changes.size_before, changes.size, changes.sum_of_others,
                            std::uint64_t{changes.left_alone.size()}, std::uint64_t{changes.pages.size()}}) {
    append(log, number);
  }
  for (const auto& [offset, bytes] : changes.left_alone) {
    append(log, offset);
    append(log, bytes);
  }
  for (const auto& [offset, before, after] : changes.pages) {
    append(log, offset);
    append(log, after.size());
    log.insert(log.end(), before.begin(), before.end());
    log.insert(log.end(), after.begin(), after.end());
  }
  append(log, xxh3(log.data(), log.size()));
  return log;
}

// Reads what append() has written, in turn.
class LogReader {
 public:
  explicit LogReader(const std::vector<char>& log) : log_(log) {}
  std::uint64_t number() {
    std::uint64_t number = 0;
    std::memcpy(&number, log_.data() + place_, sizeof(number));
    place_ += sizeof(number);
    return number;
  }
  std::vector<char> bytes(std::uint64_t count) {
    const auto begin = log_.begin() + static_cast<std::ptrdiff_t>(place_);
    place_ += count;
    return {begin, begin + static_cast<std::ptrdiff_t>(count)};
  }

 private:
  const std::vector<char>& log_;
  std::size_t place_ = 0;
};

// Whether the log was written to its end.
bool is_whole(const std::vector<char>& log) {
  constexpr std::size_t width = sizeof(std::uint64_t);
  if (log.size() < 4 * width) return false;
  const std::vector<char> sum(log.end() - width, log.end());
  return LogReader(sum).number() == xxh3(log.data(), log.size() - width);
}

Changes changes_in(const std::vector<char>& log) {
  LogReader in(log);
  in.number();  // the format
  Changes changes;
  changes.size_before = in.number();
  changes.size = in.number();
  changes.sum_of_others = in.number();
  changes.left_alone.resize(in.number());
  changes.pages.resize(in.number());
  for (auto& [offset, bytes] : changes.left_alone) {
    offset = in.number();
    bytes = in.number();
  }
  for (auto& [offset, before, after] : changes.pages) {
    offset = in.number();
    const auto bytes = in.number();
    before = in.bytes(bytes);
    after = in.bytes(bytes);
  }
  return changes;
}

// Can be repeated: a second time changes nothing.
void apply(const Changes& changes, const PosixFile& file) {
  if (file.size() != changes.size) file.resize(changes.size);
  for (const auto& change : changes.pages) write(file, change.offset, change.after);
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
  const FolderInMemory memory;
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
  recover_edit(path);
  const PosixFile file(path, O_RDWR);
  const auto changes = changes_made_by(edit, file, left_alone);
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
  apply(changes_made_by(edit, file, left_alone), file);
}

void recover_edit(const std::filesystem::path& path) {
  const auto log_path = log_of(path);
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(log_path))) return;
  const auto log = [&] {
    const PosixFile file(log_path, O_RDONLY | O_NOFOLLOW);
    return bytes_of(file, 0, file.size());
  }();
  // Where it was not written to its end, the file has not been touched.
  const auto format = is_whole(log) ? LogReader(log).number() : 0;
  if (format == anonymous_log_format) {
    throw InputError(
        text("'", log_path.string(), "' is the redo log of an earlier version, which does not say of which ",
             "file it is: where that is '", path.string(), "', go on with that version, else remove the log"));
  }
  if (format == log_format) {
    const auto changes = changes_in(log);
    const PosixFile file(path, O_RDWR);
    if (!are_of(changes, file)) {
      throw InputError(text("'", log_path.string(), "' is the redo log of another file than '", path.string(),
                            "' is now: put it beside the file that it belongs to, under the name that goes with it, or "
                            "remove it"));
    }
    apply(changes, file);
  }
  ::unlink(log_path.c_str());
}

void forget_edit(const std::filesystem::path& path) {
  ::unlink(log_of(path).c_str());
}

}  // namespace hessian_mpi::system
