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
#include "hessian_mpi/system/writeback.hpp"

namespace hessian_mpi::system {
namespace {

constexpr std::uint64_t page = 4096;

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw RunError(text("'", path.string(), "' could not be ", what, ": ", reason(errno)));
}

// An open file descriptor and the name for messages.
class OpenFile {
 public:
  OpenFile(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {
    if (descriptor_ < 0) fail(path_, "opened");
  }
  ~OpenFile() { ::close(descriptor_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  std::uint64_t size() const { return static_cast<std::uint64_t>(::lseek(descriptor_, 0, SEEK_END)); }
  void resize(std::uint64_t bytes) const {
    if (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) fail(path_, "resized");
  }
  // Bytes beyond the end read as zeros.
  std::vector<char> read(std::uint64_t offset, std::uint64_t bytes) const {
    std::vector<char> buffer(bytes, '\0');
    for (std::uint64_t done = 0; done < bytes;) {
      const auto count = ::pread(descriptor_, buffer.data() + done, bytes - done, static_cast<off_t>(offset + done));
      if (count < 0) fail(path_, "read");
      if (count == 0) break;
      done += static_cast<std::uint64_t>(count);
    }
    return buffer;
  }
  void write(std::uint64_t offset, const std::vector<char>& buffer) const {
    for (std::uint64_t done = 0; done < buffer.size();) {
      const auto count =
          ::pwrite(descriptor_, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
      if (count <= 0) fail(path_, "written to");
      done += static_cast<std::uint64_t>(count);
    }
  }
  // Calls visit(offset, bytes) for what has been written to the file, in pieces, passing over holes.
  template <class Visit>
  void each_piece(const Visit& visit) const {
    constexpr off_t largest = 1 << 20;
    const auto end = static_cast<off_t>(size());
    for (off_t begin = ::lseek(descriptor_, 0, SEEK_DATA); begin >= 0 && begin < end;) {
      const off_t hole = std::min(::lseek(descriptor_, begin, SEEK_HOLE), begin + largest);
      visit(static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(hole - begin));
      begin = ::lseek(descriptor_, hole, SEEK_DATA);
    }
  }
  // Takes space from the disk, where the file system can do that in advance.
  void take_space(std::uint64_t offset, std::uint64_t bytes) const {
    const int result =
        ::fallocate(descriptor_, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes));
    if (result != 0 && (errno == ENOSPC || errno == EDQUOT)) fail(path_, "extended");
  }
  void sync() const {
    if (::fsync(descriptor_) != 0) fail(path_, "brought to the disk");
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
};

OpenFile open_existing(const std::filesystem::path& path) {
  return {path, ::open(path.c_str(), O_RDWR | O_CLOEXEC)};
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
    if (::mkdir(path_.c_str(), 0700) != 0) fail(path_, "made");
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

OpenFile create_new(const std::filesystem::path& path) {
  return {path, ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)};
}

Changes changes_made_by(const std::function<void(const std::filesystem::path&)>& edit,
                        const std::filesystem::path& name, const OpenFile& file,
                        const std::vector<Extent>& left_alone) {
  const FolderInMemory memory(name);
  const OpenFile copy = create_new(memory.file());
  copy.resize(file.size());
  each_page(file.size(), left_alone,
            [&](std::uint64_t offset, std::uint64_t bytes) { copy.write(offset, file.read(offset, bytes)); });
  edit(memory.file());
  Changes changes{copy.size(), {}};
  each_page(changes.size, left_alone, [&](std::uint64_t offset, std::uint64_t bytes) {
    auto after = copy.read(offset, bytes);
    if (after != file.read(offset, bytes)) changes.pages.push_back({offset, std::move(after)});
  });
  return changes;
}

// --- the log: numbers of 8 bytes, pages, and the XXH3 of all before it

constexpr std::uint64_t log_format = 0x31474f4c4f444552;  // "REDOLOG1"

std::filesystem::path log_of(const std::filesystem::path& file) {
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
void apply(const Changes& changes, const OpenFile& file) {
  if (file.size() != changes.size) file.resize(changes.size);
  for (const auto& [offset, bytes] : changes.pages) file.write(offset, bytes);
  file.sync();
}

// Removes a log that was not written to its end.
class UnfinishedLog {
 public:
  explicit UnfinishedLog(std::filesystem::path path) : path_(std::move(path)) {}
  ~UnfinishedLog() {
    if (!whole_) ::unlink(path_.c_str());
  }
  UnfinishedLog(const UnfinishedLog&) = delete;
  UnfinishedLog& operator=(const UnfinishedLog&) = delete;
  void is_whole() { whole_ = true; }

 private:
  std::filesystem::path path_;
  bool whole_ = false;
};

void write_log(const std::filesystem::path& path, const std::vector<char>& bytes) {
  UnfinishedLog unfinished(path);
  const OpenFile log(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  log.write(0, bytes);
  log.sync();
  unfinished.is_whole();
}

}  // namespace

void make_at_once(const std::filesystem::path& path, const std::function<void(const std::filesystem::path&)>& make) {
  const FolderInMemory memory(path);
  make(memory.file());
  const auto made = open_existing(memory.file());
  const auto file = create_new(path);
  file.resize(made.size());
  made.each_piece([&](std::uint64_t offset, std::uint64_t bytes) { file.write(offset, made.read(offset, bytes)); });
  file.sync();
}

void edit_at_once(const std::filesystem::path& path, const std::vector<Extent>& left_alone,
                  const std::function<void(const std::filesystem::path&)>& edit) {
  const auto file = open_existing(path);
  const auto changes = changes_made_by(edit, path, file, left_alone);
  if (changes.size > file.size()) file.take_space(file.size(), changes.size - file.size());
  write_log(log_of(path), log_with(changes));
  apply(changes, file);
  ::unlink(log_of(path).c_str());
}

void recover_edit(const std::filesystem::path& path) {
  const auto log_path = log_of(path);
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(log_path))) return;
  std::optional<Changes> changes;
  {
    const OpenFile log(log_path, ::open(log_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    changes = changes_in(log.read(0, log.size()));
  }
  if (changes) apply(*changes, open_existing(path));
  ::unlink(log_path.c_str());
}

}  // namespace hessian_mpi::system
