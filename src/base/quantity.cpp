#include "hessian_mpi/base/quantity.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <iomanip>
#include <map>
#include <sstream>

#include "hessian_mpi/base/error.hpp"

namespace hessian_mpi {
namespace {

std::string text_of_time(long long larger, const char* larger_unit, long long smaller, const char* smaller_unit) {
  std::ostringstream out;
  out << larger << larger_unit << std::setfill('0') << std::setw(2) << smaller << smaller_unit;
  return out.str();
}

}  // namespace

std::string text_of_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 6> units{" B", " kB", " MB", " GB", " TB", " PB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  std::ostringstream out;
  out << std::setprecision(3) << value << units.at(unit);
  return out.str();
}

std::string text_of_seconds(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole >= 3600) return text_of_time(whole / 3600, " h ", whole % 3600 / 60, " min");
  if (whole >= 60) return text_of_time(whole / 60, " min ", whole % 60, " s");
  std::ostringstream out;
  out << std::fixed << std::setprecision(seconds < 9.95 ? 1 : 0) << seconds << " s";
  return out.str();
}

std::uint64_t parse_bytes(const std::string& word) {
  std::istringstream in(word);
  double number = 0;
  std::string unit;
  in >> number;
  const bool good = static_cast<bool>(in);
  in >> unit;
  std::string rest;
  const bool more = static_cast<bool>(in >> rest);
  const std::map<std::string, double> units{{"", 0}, {"B", 0}, {"K", 1}, {"M", 2}, {"G", 3}, {"T", 4}};
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::toupper(c); });
  // "KB" and "KiB" are what people write for K as well.
  for (const auto* ending : {"IB", "B"}) {
    const std::string tail(ending);
    if (unit.size() == tail.size() + 1 && unit.compare(1, std::string::npos, tail) == 0) unit.resize(1);
  }
  constexpr double most = 1e18;
  const auto found = units.find(unit);
  const double bytes = found == units.end() ? 0 : number * std::pow(1024.0, found->second);
  if (!good || more || !(bytes >= 1) || bytes > most) {
    throw InputError(text("'", word, "' is not a size: write 4096, 512M or 2G"));
  }
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace hessian_mpi
