#include "hessian_mpi/system/surroundings.hpp"

#include <link.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/system/node.hpp"

namespace hessian_mpi::system {
namespace {

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

// The kernel writes spaces of a path as \040.
std::string unescaped(const std::string& word) {
  constexpr std::size_t digits = 3;
  constexpr int octal = 8;
  std::string plain;
  for (std::size_t k = 0; k < word.size(); ++k) {
    if (word[k] == '\\' && k + digits < word.size()) {
      plain += static_cast<char>(std::stoi(word.substr(k + 1, digits), nullptr, octal));
      k += digits;
    } else {
      plain += word[k];
    }
  }
  return plain;
}

bool holds(const std::filesystem::path& folder, const std::filesystem::path& path) {
  const auto [end, other] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end() || (*end).empty();
}

}  // namespace

std::string text_of_machine() {
  utsname kernel{};
  ::uname(&kernel);
  return text(static_cast<const char*>(kernel.sysname), ' ', static_cast<const char*>(kernel.release), ", ",
              processor(), ", ", cores_of(processors_of_process()).size(), " of its cores");
}

std::filesystem::path loaded_library(const std::string& name) {
  struct Search {
    const std::string& name;
    std::filesystem::path found;
  } search{name, {}};
  const auto look = [](dl_phdr_info* library, std::size_t, void* data) {
    auto& sought = *static_cast<Search*>(data);
    const std::filesystem::path path = library->dlpi_name;
    if (!path.filename().string().starts_with(sought.name)) return 0;
    sought.found = path;
    return 1;
  };
  ::dl_iterate_phdr(look, &search);
  return search.found;
}

// Of mounts at one place the last one is seen.
FileSystem file_system_of(const std::filesystem::path& path) {
  const auto sought = std::filesystem::weakly_canonical(std::filesystem::absolute(path));
  FileSystem nearest;
  std::ifstream in("/proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word;
    FileSystem mount;
    for (int k = 0; k < 5 && words >> word; ++k) mount.mounted_at = unescaped(word);
    while (words >> word && word != "-") {
    }
    words >> mount.type >> word;
    mount.source = unescaped(word);
    const bool nearer = mount.mounted_at.native().size() >= nearest.mounted_at.native().size();
    if (holds(mount.mounted_at, sought) && nearer) nearest = mount;
  }
  return nearest;
}

}  // namespace hessian_mpi::system
