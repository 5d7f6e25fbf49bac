#include "hessian_mpi/matrix/runs.hpp"

#include <algorithm>
#include <utility>

#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::matrix {

std::vector<Rows> common(const std::vector<Rows>& runs, const std::vector<Rows>& others) {
  std::vector<Rows> both;
  for (const auto& run : runs) {
    for (const auto& other : others) append_run({std::max(run.begin, other.begin), std::min(run.end, other.end)}, both);
  }
  return both;
}

std::vector<Rows> united(std::vector<Rows> runs) {
  std::sort(runs.begin(), runs.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  std::vector<Rows> joined;
  for (const auto& run : runs) {
    const auto begin = joined.empty() ? run.begin : std::max(run.begin, joined.back().end);
    append_run({begin, std::max(begin, run.end)}, joined);
  }
  return joined;
}

std::vector<Rows> united(std::vector<Rows> runs, const std::vector<Rows>& others) {
  runs.insert(runs.end(), others.begin(), others.end());
  return united(std::move(runs));
}

std::vector<Rows> without(const std::vector<Rows>& runs, const std::vector<Rows>& others) {
  std::vector<Rows> left;
  for (const auto& run : runs) {
    auto begin = run.begin;
    for (const auto& other : others) {
      if (other.end <= begin || other.begin >= run.end) continue;
      append_run({begin, other.begin}, left);
      begin = std::max(begin, other.end);
    }
    append_run({begin, run.end}, left);
  }
  return left;
}

std::int64_t count_of(const std::vector<Rows>& runs) {
  std::int64_t count = 0;
  for (const auto& run : runs) count += run.count();
  return count;
}

std::int64_t place_of(std::int64_t row, const std::vector<Rows>& runs) {
  std::int64_t before = 0;
  for (const auto& run : runs) {
    if (row < run.end) return before + row - run.begin;
    before += run.count();
  }
  return before;
}

bool contains(const std::vector<Rows>& runs, std::int64_t row) {
  return std::any_of(runs.begin(), runs.end(), [=](const Rows& run) { return run.begin <= row && row < run.end; });
}

}  // namespace hessian_mpi::matrix
