#include "block_selection.hpp"

#include <algorithm>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/lines.hpp"

namespace hessian_mpi::programs {
namespace {

using Parameters = std::vector<matrix::ParameterEntry>;

Block block_of(const Parameters& parameters) {
  Block block;
  for (const auto& entry : parameters) {
    block.name += (block.name.empty() ? "" : ",") + entry.name;
    block.n += entry.size;
    matrix::append_run({entry.offset, entry.offset + entry.size}, block.ranges);
  }
  return block;
}

// In the order of the matrix. Those without elements have no block.
Parameters parameters_named(const std::vector<std::string>& patterns, const file::StoredLayout& hessian) {
  const auto& all = hessian.index.entries();
  for (const auto& pattern : patterns) {
    const bool fits = std::any_of(all.begin(), all.end(), [&](const auto& entry) {
      return entry.size > 0 && matrix::matches_any(entry.name, {pattern});
    });
    if (!fits) throw InputError(text("--block ", pattern, ": no parameter has such a name; hessian_info lists them"));
  }
  Parameters chosen;
  std::copy_if(all.begin(), all.end(), std::back_inserter(chosen),
               [&](const auto& entry) { return entry.size > 0 && matrix::matches_any(entry.name, patterns); });
  return chosen;
}

}  // namespace

std::uint64_t bytes_of(const file::StoredLayout& hessian, const Block& block) {
  return block.ranges.empty() ? static_cast<std::uint64_t>(hessian.matrix.bytes())
                              : static_cast<std::uint64_t>(block.n * block.n) * bytes_of(hessian.matrix.storage);
}

std::vector<Block> blocks_named(const std::vector<std::string>& names, const file::StoredLayout& hessian) {
  const auto entries = hessian.matrix.entries;
  if (entries == Entries::diagonal)
    throw InputError("the file holds the diagonal alone: its eigenvalues are its numbers");
  const bool diagonal_blocks = entries == Entries::diagonal_blocks;
  std::vector<Block> blocks;
  for (const auto& name : names.empty() && diagonal_blocks ? std::vector<std::string>{"*"} : names) {
    const auto patterns = split(name, ',');
    const auto parameters = parameters_named(patterns, hessian);
    if (patterns.size() == 1) {
      for (const auto& parameter : parameters) blocks.push_back(block_of({parameter}));
    } else if (diagonal_blocks && parameters.size() > 1) {
      throw InputError(text("--block ", name, ": the file has the blocks of parameters with themselves alone"));
    } else {
      blocks.push_back(block_of(parameters));
    }
  }
  return blocks;
}

}  // namespace hessian_mpi::programs
