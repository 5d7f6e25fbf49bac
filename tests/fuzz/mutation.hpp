#pragma once
/// Files with something wrong in them, made of good ones: the same for the same random numbers.

#include <cstdint>
#include <random>
#include <string>

namespace hessian_mpi::fuzz {

using Random = std::mt19937_64;
using Bytes = std::string;

/// Bytes flipped, cut off, zeroed, repeated, taken out, replaced by noise, or huge numbers in fields of 4 or 8 bytes.
Bytes mutated_bytes(Bytes bytes, Random& random);

/// The same for the members of an archive of PyTorch, with the archive built anew around them, so that its checksums
/// are right; for JSON and program text also changes that leave it JSON or text; sometimes a member's name. Falls back
/// on mutated_bytes() for what is no archive.
Bytes mutated_archive(const Bytes& archive, Random& random);

/// The same for lines of text `name = value`.
Bytes mutated_lines(const Bytes& lines, Random& random);

}  // namespace hessian_mpi::fuzz
