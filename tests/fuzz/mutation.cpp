#include "mutation.hpp"

#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

namespace hessian_mpi::fuzz {
namespace {

using nlohmann::json;

std::size_t below(std::size_t limit, Random& random) {
  return limit == 0 ? 0 : static_cast<std::size_t>(random() % limit);
}

bool one_in(std::size_t n, Random& random) {
  return below(n, random) == 0;
}

template <class Choices>
const auto& one_of(const Choices& choices, Random& random) {
  return choices[below(std::size(choices), random)];
}

Bytes noise(std::size_t size, Random& random) {
  Bytes bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

struct Chunk {
  std::size_t begin = 0;
  std::size_t size = 0;
};

Chunk chunk_of(const Bytes& bytes, Random& random) {
  const std::size_t begin = below(bytes.size(), random);
  constexpr std::array<std::size_t, 4> longest = {4, 32, 256, 4096};
  return {begin, 1 + below(std::min(one_of(longest, random), bytes.size() - begin), random)};
}

// A number that somebody may take for a size, in a field of 4 or 8 bytes.
void put_number(Bytes& bytes, Random& random) {
  constexpr std::array<std::uint64_t, 8> numbers = {
      0x7fffffffffffffff, 0xffffffffffffffff, 0x7fffffff, 0xffffffff, 0x8000000000000000, 0, 1, 0x100000000};
  const std::uint64_t number = one_of(numbers, random);
  const std::size_t width = one_in(2, random) ? 4 : 8;
  if (bytes.size() < width) return;
  std::size_t at = below(bytes.size() - width + 1, random);
  if (!one_in(3, random)) at -= at % width;
  std::memcpy(bytes.data() + at, &number, width);
}

void change_once(Bytes& bytes, Random& random) {
  if (bytes.empty()) {
    bytes = noise(1 + below(40, random), random);
    return;
  }
  const Chunk chunk = chunk_of(bytes, random);
  switch (below(9, random)) {
    case 0:
    case 1:
      bytes[chunk.begin] = static_cast<char>(bytes[chunk.begin] ^ (1 << below(8, random)));
      break;
    case 2:
      bytes[chunk.begin] = static_cast<char>(random());
      break;
    case 3:
      bytes.resize(chunk.begin);
      break;
    case 4:
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(chunk.begin), chunk.size, '\0');
      break;
    case 5:
      bytes.insert(chunk.begin, bytes.substr(chunk.begin, chunk.size));
      break;
    case 6:
      bytes.erase(chunk.begin, chunk.size);
      break;
    case 7:
      bytes.replace(chunk.begin, chunk.size, noise(chunk.size, random));
      break;
    default:
      put_number(bytes, random);
  }
}

// --- JSON ---------------------------------------------------------------------------------------------------------

// Text of a kind that ends up in names, paths and messages.
std::string odd_text(Random& random) {
  static const std::array<std::string, 10> texts = {"",
                                                    "../../../etc/passwd",
                                                    "/dev/zero",
                                                    std::string("a\0b", 3),
                                                    "line\nline\r\x1b[31m",
                                                    "\xc3\xa9\xe2\x82\xac",
                                                    std::string(100000, 'x'),
                                                    "%s%n%s",
                                                    "torch.ops.aten.from_file.default",
                                                    "None"};
  return one_of(texts, random);
}

json odd_value(Random& random) {
  switch (below(9, random)) {
    case 0:
      return nullptr;
    case 1:
      return odd_text(random);
    case 2:
      return std::numeric_limits<std::int64_t>::max() - static_cast<std::int64_t>(below(3, random));
    case 3:
      return -static_cast<std::int64_t>(below(1000, random));
    case 4:
      return std::numeric_limits<std::uint64_t>::max();
    case 5:
      return 1e300;
    case 6:
      return json::array();
    case 7:
      return static_cast<std::int64_t>(below(100, random));
    default:
      return json::object();
  }
}

json nested(std::size_t depth) {
  json value = 1;
  for (std::size_t level = 0; level < depth; ++level) value = json::array({std::move(value)});
  return value;
}

json& any_part(json& document, Random& random) {
  json* part = &document;
  while (part->is_structured() && !part->empty() && !one_in(8, random)) {
    auto inner = part->begin();
    std::advance(inner, static_cast<std::ptrdiff_t>(below(part->size(), random)));
    part = &*inner;
  }
  return *part;
}

void change_members(json& object, Random& random) {
  auto member = object.begin();
  std::advance(member, static_cast<std::ptrdiff_t>(below(object.size(), random)));
  if (object.is_array()) {
    const json copy = *member;
    one_in(2, random) ? void(object.erase(member)) : object.push_back(copy);
    return;
  }
  const std::string key = member.key();
  const json value = member.value();
  object.erase(key);
  if (!one_in(3, random)) object[odd_text(random)] = value;
}

Bytes mutated_json(const Bytes& text, Random& random) {
  json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return mutated_bytes(text, random);
  for (std::size_t changes = 1 + below(3, random); changes > 0; --changes) {
    json& part = any_part(document, random);
    if (part.is_structured() && !part.empty() && !one_in(4, random)) {
      change_members(part, random);
    } else if (one_in(12, random)) {
      // Deeper than what the program reads, and not beyond what dump(), which recurses, writes under sanitizers.
      part = nested(one_in(2, random) ? 50 : 2000);
    } else if (one_in(4, random)) {
      const json copy = any_part(document, random);
      part = copy;
    } else {
      part = odd_value(random);
    }
  }
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

// --- Program text -------------------------------------------------------------------------------------------------

std::vector<std::string> lines_of(const Bytes& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// The word or number at a random place, if there is one.
Chunk any_word(const std::string& line, Random& random) {
  std::size_t begin = below(line.size(), random);
  while (begin < line.size() && !is_word(line[begin])) ++begin;
  while (begin > 0 && begin < line.size() && is_word(line[begin - 1])) --begin;
  std::size_t end = begin;
  while (end < line.size() && is_word(line[end])) ++end;
  return {begin, end - begin};
}

std::string other_word(Random& random) {
  static const std::array<std::string, 22> words = {"9223372036854775807",
                                                    "-1",
                                                    "0",
                                                    "99999",
                                                    "1e400",
                                                    "None",
                                                    "True",
                                                    "self",
                                                    "x",
                                                    "ops.aten.from_file",
                                                    "torch.save",
                                                    "print",
                                                    "\"text\"",
                                                    "[]",
                                                    "(1, 2)",
                                                    "Tensor",
                                                    "uninitialized(Tensor)",
                                                    "CONSTANTS.c0",
                                                    "CONSTANTS.c99",
                                                    "__torch__.torch.classes.rnn.CellParamsBase",
                                                    "torch.device(\"meta\")",
                                                    "\\\n"};
  return one_of(words, random);
}

std::string deep_expression(Random& random) {
  const std::size_t depth = one_in(2, random) ? 60 : 20000;
  switch (below(3, random)) {
    case 0:
      return std::string(depth, '(') + "1" + std::string(depth, ')');
    case 1:
      return std::string(depth, '-') + "1";
    default: {
      std::string sum = "1";
      for (std::size_t k = 0; k < depth; ++k) sum += " + 1";
      return sum;
    }
  }
}

Bytes mutated_text(const Bytes& text, Random& random) {
  auto lines = lines_of(text);
  if (lines.empty()) return mutated_bytes(text, random);
  for (std::size_t changes = 1 + below(2, random); changes > 0; --changes) {
    const std::size_t at = below(lines.size(), random);
    std::string& line = lines[at];
    const Chunk word = any_word(line, random);
    switch (below(7, random)) {
      case 0:
        lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(at), std::string(one_of(lines, random)));
        break;
      case 1:
        line.clear();
        break;
      case 2:
        line = std::string(one_of(lines, random));
        break;
      case 3:
        line.replace(word.begin, word.size, one_in(4, random) ? deep_expression(random) : other_word(random));
        break;
      case 4: {
        const std::string other = one_of(lines, random);
        const Chunk source = any_word(other, random);
        line.replace(word.begin, word.size, other.substr(source.begin, source.size));
        break;
      }
      case 5:
        line.replace(word.begin, word.size, other_word(random));
        break;
      default:
        line.insert(0, std::string(below(40, random), ' '));
    }
  }
  Bytes joined;
  for (const auto& line : lines) joined += line + '\n';
  return joined;
}

// --- Archives -----------------------------------------------------------------------------------------------------

struct Member {
  std::string name;
  Bytes content;
};

std::vector<Member> members_of(const Bytes& archive) {
  std::istringstream in(archive);
  caffe2::serialize::PyTorchStreamReader reader(&in);
  std::vector<Member> members;
  for (const auto& name : reader.getAllRecords()) {
    const auto [bytes, size] = reader.getRecord(name);
    members.push_back({name, Bytes(static_cast<const char*>(bytes.get()), size)});
  }
  return members;
}

// The writer adds these itself.
bool is_written_at_the_end(const std::string& name) {
  return name == "version" || name == ".data/version" || name == ".data/serialization_id" || name == "byteorder";
}

Bytes archive_of(const std::vector<Member>& members) {
  Bytes archive;
  caffe2::serialize::PyTorchStreamWriter writer([&archive](const void* bytes, std::size_t size) {
    archive.append(static_cast<const char*>(bytes), size);
    return size;
  });
  for (const auto& [name, content] : members) {
    if (!is_written_at_the_end(name)) writer.writeRecord(name, content.data(), content.size());
  }
  writer.writeEndOfFile();
  return archive;
}

void change_content(Member& member, Random& random) {
  if (member.name.ends_with(".json") && !one_in(8, random)) {
    member.content = mutated_json(member.content, random);
  } else if (member.name.ends_with(".py") && !one_in(4, random)) {
    member.content = mutated_text(member.content, random);
  } else {
    member.content = mutated_bytes(std::move(member.content), random);
  }
}

// Structure before numbers: of the members, those that hold numbers alone are the most and tell the least.
std::size_t any_member(const std::vector<Member>& members, Random& random) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    const std::size_t k = below(members.size(), random);
    for (const char* ending : {".pkl", ".json", ".py"}) {
      if (members[k].name.ends_with(ending)) return k;
    }
  }
  return below(members.size(), random);
}

}  // namespace

Bytes mutated_bytes(Bytes bytes, Random& random) {
  constexpr std::array<std::size_t, 5> counts = {1, 1, 2, 4, 16};
  for (std::size_t changes = one_of(counts, random); changes > 0; --changes) change_once(bytes, random);
  return bytes;
}

Bytes mutated_archive(const Bytes& archive, Random& random) {
  if (!archive.starts_with("PK")) return mutated_bytes(archive, random);
  auto members = members_of(archive);
  if (one_in(20, random)) {
    members.erase(members.begin() + static_cast<std::ptrdiff_t>(below(members.size(), random)));
  } else if (one_in(20, random)) {
    one_of(members, random);  // spends a random number, so that names and contents are chosen apart
    members[below(members.size(), random)].name = "../" + members[below(members.size(), random)].name;
  } else {
    for (std::size_t changes = 1 + below(2, random); changes > 0; --changes) {
      change_content(members[any_member(members, random)], random);
    }
  }
  return archive_of(members);
}

Bytes mutated_lines(const Bytes& lines, Random& random) {
  return one_in(2, random) ? mutated_bytes(lines, random) : mutated_text(lines, random);
}

}  // namespace hessian_mpi::fuzz
