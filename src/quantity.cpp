#include "hessian_mpi/quantity.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <iomanip>
#include <sstream>

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

}  // namespace hessian_mpi
