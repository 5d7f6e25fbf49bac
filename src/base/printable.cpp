#include "hessian_mpi/base/printable.hpp"

#include <algorithm>

namespace hessian_mpi {
namespace {

bool continues(char c) {
  return (static_cast<unsigned char>(c) & 0xc0U) == 0x80U;
}

// Bytes of the UTF-8 sequence that text begins with; 0 where it begins with none. Longer forms than needed, surrogates
// and what lies beyond Unicode are none.
std::size_t sequence_length(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  if (!std::all_of(text.begin() + 1, text.begin() + static_cast<std::ptrdiff_t>(length), continues)) return 0;
  const auto second = static_cast<unsigned char>(text[1]);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool outside = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);
  return overlong || outside ? 0 : length;
}

// Of ASCII, and those that Unicode took over from ISO 6429: terminals obey both.
bool is_control(std::string_view sequence) {
  const auto first = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) return first < 0x20 || first == 0x7f;
  return first == 0xc2 && static_cast<unsigned char>(sequence[1]) < 0xa0;
}

}  // namespace

std::string printable(std::string_view text_of_file, std::size_t limit) {
  std::string shown;
  while (!text_of_file.empty()) {
    const std::size_t found = sequence_length(text_of_file);
    const bool valid = found > 0;
    const std::size_t length = valid ? found : 1;
    const std::string_view sequence = text_of_file.substr(0, length);
    if (shown.size() + length > limit) return shown + "...";
    if (!valid) {
      shown += '?';
    } else if (is_control(sequence)) {
      shown += ' ';
    } else {
      shown += sequence;
    }
    text_of_file.remove_prefix(length);
  }
  return shown;
}

bool is_printable(std::string_view text_of_file) {
  return printable(text_of_file, text_of_file.size()) == text_of_file;
}

}  // namespace hessian_mpi
