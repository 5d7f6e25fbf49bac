#pragma once
/// Assembles the matrix: every rank has its engine compute its blocks, a buffer at a time, and all ranks write the
/// buffers collectively into the file. Where rows are born, checked, given a checksum, and handed over.

#include <cstdint>
#include <vector>

#include "hessian_mpi/communicator.hpp"
#include "hessian_mpi/engine.hpp"
#include "hessian_mpi/hessian_file.hpp"
#include "hessian_mpi/partition.hpp"
#include "hessian_mpi/progress.hpp"

namespace hessian_mpi {

/// What a rank knows of its rows when they are written.
struct Assembled {
  std::vector<std::uint64_t> checksums;      ///< of this rank's blocks, in their order
  double largest = 0;                        ///< largest |H_ij| among finite numbers of this rank
  std::vector<std::int64_t> nonfinite_rows;  ///< rows of this rank with a number that is NaN or infinite
  double compute_seconds = 0;
  double write_seconds = 0;
};

/// Blocks that fit into `memory` bytes: at most so many are computed before they are written. Depends on nothing that
/// differs between ranks but memory. Throws InputError where not even one fits, naming --memory and the least it takes.
std::int64_t blocks_in_memory(const Engine& engine, const BlockGrid& grid, std::int64_t columns, Precision storage,
                              std::uint64_t memory);

/// Collective over the communicator. Computes and writes the blocks of every rank; at most `blocks_at_once` are in
/// memory. A failure on any rank is thrown on all, as RunError.
Assembled assemble(Engine& engine, const BlockGrid& grid, std::int64_t columns, Precision storage,
                   std::int64_t blocks_at_once, HessianWriter& writer, const Communicator& communicator,
                   Progress& progress);

/// Largest absolute number among `count` finite ones, and whether there is one that is not finite. One pass over bits.
struct Magnitude {
  double largest = 0;
  bool finite = true;
};
Magnitude magnitude_of(const float* numbers, std::int64_t count);
Magnitude magnitude_of(const double* numbers, std::int64_t count);

}  // namespace hessian_mpi
