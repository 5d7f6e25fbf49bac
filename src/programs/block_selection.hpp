#pragma once
/// Which blocks on the diagonal of a matrix a user means.

#include <cstdint>
#include <string>
#include <vector>

#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::programs {

/// The rows and columns of some parameters, or the whole matrix.
struct Block {
  std::string name;          ///< of its parameters, with commas between them; empty: the whole
  std::vector<Rows> ranges;  ///< none: the whole
  std::int64_t n = 0;        ///< rows
};

/// Of its numbers in the file.
std::uint64_t bytes_of(const file::StoredLayout& hessian, const Block& block);

/// For --help.
constexpr const char* words_for_blocks =
    "the blocks of these parameters with themselves in place of the whole matrix: each that fits a name or shell "
    "pattern "
    "has one, names with commas between them have one together; where absent, all in a file of diagonal blocks";

/// What --block names. No names: none of a whole matrix, the block of each parameter of a file of diagonal blocks.
/// Throws InputError where no parameter fits, or the file lacks the block.
std::vector<Block> blocks_named(const std::vector<std::string>& names, const file::StoredLayout& hessian);

}  // namespace hessian_mpi::programs
