#pragma once
/// Checksums: XXH3 of blocks of the matrix, SHA-256 of the files a job was made from.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace hessian_mpi {

/// XXH3, 64 bits, seed 0, of the bytes: as `xxhsum -H3` and Python's xxhash.xxh3_64 compute it.
std::uint64_t xxh3(const void* bytes, std::size_t count);

/// SHA-256 of a file's bytes as 64 hexadecimal digits, as sha256sum prints it. Throws InputError if it can't be read.
std::string sha256_of_file(const std::filesystem::path& file);

}  // namespace hessian_mpi
