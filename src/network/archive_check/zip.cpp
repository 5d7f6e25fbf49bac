#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <array>
#include <boost/crc.hpp>
#include <cstdint>
#include <fstream>
#include <limits>
#include <set>
#include <vector>

#include "archive_check.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {
namespace {

// APPNOTE.TXT of PKWARE, sections 4.3.7 to 4.3.16.
constexpr std::uint32_t local_signature = 0x04034b50, entry_signature = 0x02014b50, end_signature = 0x06054b50,
                        end64_signature = 0x06064b50, locator_signature = 0x07064b50;
constexpr std::size_t local_size = 30, entry_size = 46, end_size = 22, end64_size = 56, locator_size = 20;
constexpr std::uint16_t not_compressed = 0, deflated = 8;

// Numbers of a header, little-endian.
class Fields {
 public:
  explicit Fields(std::vector<unsigned char> bytes) : bytes_(std::move(bytes)) {}
  std::size_t size() const { return bytes_.size(); }
  std::uint64_t number(std::size_t at, std::size_t width) const {
    if (at + width > bytes_.size()) damaged("the directory of the archive ends early");
    std::uint64_t value = 0;
    for (std::size_t k = width; k > 0; --k) value = (value << 8) | bytes_[at + k - 1];
    return value;
  }
  std::uint16_t u16(std::size_t at) const { return static_cast<std::uint16_t>(number(at, 2)); }
  std::uint32_t u32(std::size_t at) const { return static_cast<std::uint32_t>(number(at, 4)); }
  std::uint64_t u64(std::size_t at) const { return number(at, 8); }
  std::string characters(std::size_t at, std::size_t count) const {
    if (at + count > bytes_.size()) damaged("the directory of the archive ends early");
    return {bytes_.begin() + static_cast<std::ptrdiff_t>(at), bytes_.begin() + static_cast<std::ptrdiff_t>(at + count)};
  }

 private:
  std::vector<unsigned char> bytes_;
};

class ArchiveFile {
 public:
  explicit ArchiveFile(const std::filesystem::path& path)
      : in_(path, std::ios::binary), size_(std::filesystem::file_size(path)) {}
  std::uint64_t size() const { return size_; }
  Fields read(std::uint64_t begin, std::uint64_t count) {
    if (begin > size_ || count > size_ - begin) damaged("the archive points behind the end of the file");
    std::vector<unsigned char> bytes(static_cast<std::size_t>(count));
    in_.seekg(static_cast<std::streamoff>(begin));
    if (!in_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(count)))
      damaged("it cannot be read to its end");
    return Fields(std::move(bytes));
  }
  std::uint32_t checksum(std::uint64_t begin, std::uint64_t count) {
    constexpr std::uint64_t piece = 1 << 20;
    std::vector<char> bytes(static_cast<std::size_t>(std::min(piece, count)));
    boost::crc_32_type crc;
    in_.seekg(static_cast<std::streamoff>(begin));
    while (count > 0) {
      const auto now = std::min(piece, count);
      if (!in_.read(bytes.data(), static_cast<std::streamsize>(now))) damaged("it cannot be read to its end");
      crc.process_bytes(bytes.data(), static_cast<std::size_t>(now));
      count -= now;
    }
    return crc.checksum();
  }

 private:
  std::ifstream in_;
  std::uint64_t size_;
};

struct Member {
  std::string name;
  std::uint16_t flags = 0;
  std::uint16_t method = 0;
  std::uint32_t checksum = 0;
  std::uint64_t compressed = 0;
  std::uint64_t size = 0;
  std::uint64_t header = 0;  // where the local header begins
  std::uint64_t begin = 0;   // where the content begins
  std::string in_words() const { return text("member '", printable(name), "'"); }
};

struct Directory {
  std::uint64_t begin = 0;
  std::uint64_t size = 0;
  std::uint64_t entries = 0;
};

// The end record stands last, before a comment of at most 64 KiB; large archives have a second one before it.
Directory directory_of(ArchiveFile& file) {
  constexpr std::uint64_t longest_comment = std::numeric_limits<std::uint16_t>::max();
  if (file.size() < end_size) damaged("it is too short for an archive");
  const auto tail_begin = file.size() - std::min(file.size(), end_size + longest_comment);
  const Fields tail = file.read(tail_begin, file.size() - tail_begin);
  std::size_t at = tail.size() - end_size;
  while (tail.u32(at) != end_signature) {
    if (at-- == 0) damaged("the archive has no directory (was it copied or downloaded to its end?)");
  }
  const Directory found{tail.u32(at + 16), tail.u32(at + 12), tail.u16(at + 10)};
  const std::uint64_t end = tail_begin + at;
  if (end < locator_size) return found;
  const Fields locator = file.read(end - locator_size, locator_size);
  if (locator.u32(0) != locator_signature) return found;
  const Fields end64 = file.read(locator.u64(8), end64_size);
  if (end64.u32(0) != end64_signature) damaged("the archive's directory is not where it should be");
  return {end64.u64(48), end64.u64(40), end64.u64(32)};
}

// Numbers beyond 32 bits stand in an extra field, those alone that need it, in this order.
void read_large_numbers(Member& member, const Fields& bytes, std::size_t begin, std::size_t end) {
  constexpr std::uint64_t in_extra_field = std::numeric_limits<std::uint32_t>::max();
  constexpr std::uint16_t large_numbers = 1;
  while (begin + 4 <= end) {
    std::size_t at = begin + 4;
    begin = at + bytes.u16(begin + 2);
    if (bytes.u16(at - 4) != large_numbers) continue;
    for (std::uint64_t* number : {&member.size, &member.compressed, &member.header}) {
      if (*number != in_extra_field) continue;
      *number = bytes.u64(at);
      at += 8;
    }
  }
}

std::vector<Member> members_of(ArchiveFile& file) {
  const Directory directory = directory_of(file);
  const Fields bytes = file.read(directory.begin, directory.size);
  std::vector<Member> members;
  std::size_t at = 0;
  for (std::uint64_t k = 0; k < directory.entries; ++k) {
    if (bytes.u32(at) != entry_signature) damaged("the archive's directory has a hole");
    Member member{{},
                  bytes.u16(at + 8),
                  bytes.u16(at + 10),
                  bytes.u32(at + 16),
                  bytes.u32(at + 20),
                  bytes.u32(at + 24),
                  bytes.u32(at + 42),
                  0};
    const std::size_t name = bytes.u16(at + 28), extra = bytes.u16(at + 30), comment = bytes.u16(at + 32);
    member.name = bytes.characters(at + entry_size, name);
    read_large_numbers(member, bytes, at + entry_size + name, at + entry_size + name + extra);
    at += entry_size + name + extra + comment;
    members.push_back(std::move(member));
  }
  return members;
}

// Nothing is ever unpacked; but a name that leads out of the archive has no business in it.
void check_name(const Member& member) {
  const std::filesystem::path path(member.name);
  const bool upwards = std::any_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
  if (member.name.empty() || path.is_absolute() || upwards) {
    throw InputError(text("has a ", member.in_words(), ", whose name leads out of the archive"));
  }
  if (!is_printable(member.name)) {
    throw InputError(text("has a ", member.in_words(), ", whose name has control characters or is not UTF-8"));
  }
}

void check_sizes(const Member& member) {
  constexpr std::uint64_t best_compression = 1032, always_allowed = 1024;  // of deflate
  if ((member.flags & 1U) != 0) throw InputError(text("has an encrypted ", member.in_words()));
  if (member.method != not_compressed && member.method != deflated) {
    throw InputError(
        text(member.in_words(), " is compressed in a way (", member.method, ") that PyTorch does not use"));
  }
  const bool plausible = member.method == not_compressed
                             ? member.size == member.compressed
                             : member.size <= always_allowed || member.size / best_compression <= member.compressed;
  if (!plausible) {
    damaged(text(member.in_words(), " is declared to have ", member.size, " bytes, and the file has ",
                 member.compressed, " for it"));
  }
}

// Finds the content behind the local header. Members may not share bytes: a few of these would make many.
void locate(std::vector<Member>& members, ArchiveFile& file) {
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.header < b.header; });
  std::uint64_t end = 0;
  for (Member& member : members) {
    const Fields header = file.read(member.header, local_size);
    if (member.header < end || header.u32(0) != local_signature)
      damaged(text(member.in_words(), " is not where the directory has it"));
    const std::size_t name = header.u16(26), extra = header.u16(28);
    member.begin = member.header + local_size + name + extra;
    if (file.read(member.header + local_size, name).characters(0, name) != member.name) {
      damaged(text(member.in_words(), " has another name in the directory"));
    }
    if (member.begin > file.size() || member.compressed > file.size() - member.begin) {
      damaged(text(member.in_words(), " is declared to have ", member.compressed, " bytes, and the file ends before"));
    }
    end = member.begin + member.compressed;
  }
}

// LibTorch's names lack the folder that all members are in.
std::string without_folder(const std::string& name) {
  return name.substr(name.find('/') + 1);
}

void check_content(const Member& member, ArchiveFile& file, caffe2::serialize::PyTorchStreamReader& reader) {
  std::uint32_t checksum = 0;
  if (member.method == not_compressed) {
    checksum = file.checksum(member.begin, member.size);
  } else {
    const auto [bytes, size] = reader.getRecord(without_folder(member.name));
    boost::crc_32_type crc;
    crc.process_bytes(bytes.get(), size);
    checksum = crc.checksum();
  }
  if (checksum == member.checksum) return;
  damaged(text(member.in_words(),
               " does not have the checksum that was written with it (or it was saved with "
               "torch.serialization.set_crc32_options(False): save it again with True)"));
}

}  // namespace

std::string archive_name(std::string name) {
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return name;
}

void check_archive(const std::filesystem::path& path) {
  ArchiveFile file(path);
  auto members = members_of(file);
  std::set<std::string> names;
  for (const Member& member : members) {
    check_name(member);
    check_sizes(member);
    if (!names.insert(archive_name(member.name)).second) throw InputError(text("has ", member.in_words(), " twice"));
  }
  locate(members, file);
  caffe2::serialize::PyTorchStreamReader reader(path.string());
  for (const Member& member : members) check_content(member, file, reader);
}

}  // namespace hessian_mpi::network
